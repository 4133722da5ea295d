"""Local optimizers: they step the trained weights along their gradients."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from fedray.training.sections import Training


class LocalOptimizer(ABC):
    """Steps parameters whose gradients are set. Its tensors keep their addresses, because a CUDA graph requires it.

    Subclasses call the functions behind `torch.optim`'s classes: the classes import a compiler, which costs each
    process two seconds and 75 MB. The fused kernels copy tensors that are not contiguous, so they get flat views;
    gradients have the strides of their parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._weights = [_flat(p.detach()) for p in parameters]
        self._lr = torch.zeros((), device=self._weights[0].device)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        self._lr.fill_(lr)

    @abstractmethod
    def reset(self) -> None:
        """Set the moments to zero."""

    def step(self) -> None:
        """Take a step with every parameter that has a gradient, and drop the gradients."""
        gradients = {i: _flat(p.grad) for i, p in enumerate(self._parameters) if p.grad is not None}
        self._descend(list(gradients), list(gradients.values()))
        for parameter in self._parameters:
            parameter.grad = None

    @abstractmethod
    def _descend(self, indices: Sequence[int], gradients: list[Tensor]) -> None:
        """Change the weights at these indices along their gradients."""


class SGDOptimizer(LocalOptimizer):
    """SGD with momentum: v = m v + (g + wd w), w -= lr v."""

    def __init__(self, training: Training, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._training = training
        self._momenta = [torch.zeros_like(w) for w in self._weights] if training.momentum else []

    def reset(self) -> None:
        """Set the momentum to zero."""
        for momentum in self._momenta:
            momentum.zero_()

    def _descend(self, indices: Sequence[int], gradients: list[Tensor]) -> None:
        sgd(
            [self._weights[i] for i in indices],
            gradients,
            [self._momenta[i] if self._momenta else None for i in indices],
            fused=True, lr=self._lr, momentum=self._training.momentum, weight_decay=self._training.weight_decay,
            dampening=0, nesterov=False, maximize=False,
        )  # fmt: skip


def _flat(tensor: Tensor) -> Tensor:
    """View a tensor without gaps as [n], in the order of its memory. The memory is shared."""
    return tensor.as_strided((tensor.numel(),), (1,))
