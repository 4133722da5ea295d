"""A teacher of images: a frozen backbone, and a head on its features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedray.errors import SpecError
from fedray.models.fast_layers import torch_layers, use_fast_layers
from fedray.models.flops import count_flops
from fedray.models.precision import autocast
from fedray.types import Precision

AnyModule = TypeVar("AnyModule", bound=nn.Module)
ImageOutputs: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""`logits` [N, classes] and `features` [N, d], float32."""

MIN_HEAD_ROWS = 16
"""Minimum number of rows of the head's input. In a smaller product, a row's last bit depends on its position (MKL)."""


@dataclass(frozen=True)
class Teacher:
    """A frozen network: an image always has the same outputs, whatever else is in the batch."""

    name: str
    prepare: Callable[[Tensor], Tensor]  # uint8 [B, C, S, S] from the data set -> float [B, ...]
    backbone: nn.Module  # prepared images -> features [B, d]
    head: nn.Module  # features -> logits [B, classes]
    device: torch.device
    batch_size: int
    precision: Precision = "float32"

    @torch.no_grad()
    def forward(self, prepared: Tensor) -> dict[str, Tensor]:
        """Return float32 logits [B, classes] and features [B, d] of prepared images."""
        with autocast(self.device, self.precision):
            features = self.backbone(prepared).float()
        padded = nn.functional.pad(features, (0, 0, 0, max(0, MIN_HEAD_ROWS - len(features))))
        return {"logits": self.head(padded)[: len(features)], "features": features}

    def outputs(self, images: npt.NDArray[np.uint8]) -> ImageOutputs:
        """Return the outputs of uint8 [N, C, S, S]. Raises SpecError where they are not finite.

        The last batch is padded to `batch_size`: with equal shapes kernels compute each image alike, so its
        outputs are the same bits in any batch.
        """
        starts = range(0, len(images), self.batch_size)
        batches = [self._padded_batch(images[start : start + self.batch_size]) for start in starts]
        outputs = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise SpecError(f"teacher: {self.name} has outputs that are not finite.")
        return outputs

    def _padded_batch(self, images: npt.NDArray[np.uint8]) -> ImageOutputs:
        padded = images[np.minimum(np.arange(self.batch_size), len(images) - 1)]
        outputs = self.forward(self.prepare(torch.from_numpy(padded).to(self.device)))
        return {name: tensor[: len(images)].cpu().numpy() for name, tensor in outputs.items()}

    @property
    def width(self) -> int:
        """Number of features per image."""
        return next(layer.in_features for layer in self.head.modules() if isinstance(layer, nn.Linear))

    @property
    def num_logits(self) -> int:
        """Number of logits per image."""
        logits: Tensor = self.head(torch.zeros(1, self.width, device=self.device))
        return logits.shape[1]

    def flops(self, image: npt.NDArray[np.uint8]) -> int:
        """Floating-point operations of one image's forward pass, without its preparation."""
        prepared = self.prepare(torch.from_numpy(image[None]).to(self.device))
        with torch_layers(self.backbone):
            return count_flops(lambda: self.head(self.backbone(prepared)))


def frozen(module: AnyModule, *, fast_layers: bool = False) -> AnyModule:
    """Put the module into eval mode without gradients, with faster layers if `fast_layers` is set, and return it."""
    if fast_layers:
        use_fast_layers(module)
    return module.eval().requires_grad_(False)
