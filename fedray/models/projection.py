"""A linear map from the proxy's features to the teacher's, trained with the proxy but never sent."""

from typing import Any

import torch
from torch import Tensor, nn

from fedray.models.heads import head_name


class Projected(nn.Module):
    """A proxy that also leaves its projected features behind.

    `projected`, float32 [B, width], belongs to the last forward pass in which the proxy was in training.
    """

    def __init__(self, proxy: nn.Module, classes: int) -> None:
        super().__init__()
        head = proxy.get_submodule(head_name(proxy, classes))
        assert isinstance(head, nn.Linear)
        head.register_forward_pre_hook(self._project)
        self._features, self._device = head.in_features, head.weight.device
        self.proxy = proxy
        self.projection = nn.Linear(1, 1)
        self._made: dict[int, nn.Linear] = {}
        self.projected = torch.empty(0)

    def begin(self, width: int) -> nn.Linear:
        """A new projection, for a client whose teacher has features of this width.

        Its weights lie where the last ones of this width did, for whoever keeps their place.
        """
        drawn = nn.Linear(self._features, width, bias=False)
        self.projection = self._made.setdefault(width, drawn).to(self._device)
        with torch.no_grad():
            self.projection.weight.copy_(drawn.weight)
        return self.projection

    def forward(self, images: Tensor) -> Tensor:
        """float32 [B, C, S, S] -> logits [B, classes]."""
        logits: Tensor = self.proxy(images)
        return logits

    def _project(self, head: nn.Module, inputs: tuple[Any, ...]) -> None:
        if head.training:  # evaluation asks the proxy itself, and sets no mode but the proxy's
            self.projected = self.projection(inputs[0]).float()
