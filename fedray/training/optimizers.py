"""Local optimizers: they step the trained weights along their gradients."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fedray.training.sections import SGD, Adam, AdamW, AnyOptimizer
from fedray.types import Weights


class LocalOptimizer(ABC):
    """Steps parameters whose gradients are set. Its tensors keep their addresses, because a CUDA graph requires it.

    Subclasses call the functions behind `torch.optim`'s classes: the classes import a compiler, which costs each
    process two seconds and 75 MB. The fused kernels copy tensors that are not contiguous, so they get flat views;
    gradients have the strides of their parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._weights = [_flat(p.detach()) for p in parameters]
        self._lr = torch.zeros((), device=self._weights[0].device)
        self._moments: list[Tensor] = []  # all tensors that a step changes, apart from the weights

    def reset(self, lr: float, moments: Weights) -> None:
        """Set the learning rate of the next steps, and the moments: to zero, or to those that `moments` returned."""
        self.set_learning_rate(lr)
        for number, moment in enumerate(self._moments):
            if moments:
                moment.copy_(torch.from_numpy(np.array(moments[str(number)])))
            else:
                moment.zero_()

    def moments(self) -> Weights:
        """Return a copy of all moments, by number."""
        return {str(number): moment.cpu().numpy().copy() for number, moment in enumerate(self._moments)}

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        self._lr.fill_(lr)

    def step(self) -> None:
        """Take a step with every parameter that has a gradient, and drop the gradients."""
        gradients = {i: _flat(p.grad) for i, p in enumerate(self._parameters) if p.grad is not None}
        self._descend(list(gradients), list(gradients.values()))
        for parameter in self._parameters:
            parameter.grad = None

    def _new_moments(self, shape: tuple[int, ...] | None = None) -> list[Tensor]:
        """Return zeros for each parameter, of its size or of one shape, which `reset` sets to zero."""
        moments = [w.new_zeros(w.shape if shape is None else shape) for w in self._weights]
        self._moments += moments
        return moments

    @abstractmethod
    def _descend(self, indices: Sequence[int], gradients: list[Tensor]) -> None:
        """Change the weights at these indices along their gradients."""


class SGDOptimizer(LocalOptimizer):
    """SGD, with momentum or without."""

    def __init__(self, spec: SGD, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._spec = spec
        self._momenta = self._new_moments() if spec.momentum else []

    def _descend(self, indices: Sequence[int], gradients: list[Tensor]) -> None:
        sgd(
            [self._weights[i] for i in indices],
            gradients,
            [self._momenta[i] if self._momenta else None for i in indices],
            fused=True, lr=self._lr, momentum=self._spec.momentum, weight_decay=self._spec.weight_decay,
            dampening=0, nesterov=self._spec.nesterov, maximize=False,
        )  # fmt: skip


class AdamOptimizer(LocalOptimizer):
    """Adam, or AdamW with its decoupled weight decay."""

    def __init__(self, spec: Adam | AdamW, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(parameters)
        self._spec = spec
        self._means, self._mean_squares = self._new_moments(), self._new_moments()
        self._steps = self._new_moments(())

    def _descend(self, indices: Sequence[int], gradients: list[Tensor]) -> None:
        spec = self._spec
        adam(
            [self._weights[i] for i in indices],
            gradients,
            [self._means[i] for i in indices],
            [self._mean_squares[i] for i in indices],
            [],
            [self._steps[i] for i in indices],
            fused=True, lr=self._lr, beta1=spec.betas[0], beta2=spec.betas[1], eps=spec.eps,
            weight_decay=spec.weight_decay, decoupled_weight_decay=isinstance(spec, AdamW),
            amsgrad=False, maximize=False,
        )  # fmt: skip


def make_optimizer(spec: AnyOptimizer, parameters: Sequence[nn.Parameter]) -> LocalOptimizer:
    """Return the optimizer of a section for these parameters."""
    return SGDOptimizer(spec, parameters) if isinstance(spec, SGD) else AdamOptimizer(spec, parameters)


def _flat(tensor: Tensor) -> Tensor:
    """View a tensor without gaps as [n], in the order of its memory. The memory is shared."""
    return tensor.as_strided((tensor.numel(),), (1,))
