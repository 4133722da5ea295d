"""A linear map from the proxy's features to the teacher's, trained with the proxy and kept on the client."""

import torch
from torch import Tensor, nn

from fedray.models.heads import head_name


class Projected(nn.Module):
    """A proxy with a projection of its features.

    The attribute `projected`, float32 [B, width], holds the projected features of the last forward pass in training
    mode.
    """

    def __init__(self, proxy: nn.Module, classes: int) -> None:
        super().__init__()
        head = proxy.get_submodule(head_name(proxy, classes))
        assert isinstance(head, nn.Linear)
        head.register_forward_pre_hook(self._project)
        self._features, self._device = head.in_features, head.weight.device
        self.proxy = proxy
        self.projection = nn.Linear(1, 1)
        self._by_width: dict[int, nn.Linear] = {}
        self.projected = torch.empty(0)

    def reset(self, width: int) -> nn.Linear:
        """Draw a new projection to teacher features of this width, and return it.

        Its weights are written to the memory of the last projection of this width: a CUDA graph relies on the address.
        """
        initial = nn.Linear(self._features, width, bias=False)
        self.projection = self._by_width.setdefault(width, initial).to(self._device)
        with torch.no_grad():
            self.projection.weight.copy_(initial.weight)
        return self.projection

    def forward(self, images: Tensor) -> Tensor:
        """float32 [B, C, S, S] -> logits [B, classes]."""
        logits: Tensor = self.proxy(images)
        return logits

    def _project(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if head.training:  # not in evaluation, which calls the proxy itself
            self.projected = self.projection(inputs[0]).float()
