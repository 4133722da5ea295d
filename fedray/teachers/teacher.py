"""A teacher that looks at images: a frozen backbone, and a head on its features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedray.errors import SpecError
from fedray.models.fast_layers import torch_layers, use_fast_layers
from fedray.models.flops import count_flops
from fedray.models.precision import autocast
from fedray.types import Precision

TeacherOutputs = Mapping[str, npt.NDArray[np.float32]]
"""`logits` [N, classes] and `features` [N, d], float32."""


@dataclass(frozen=True)
class Teacher:
    """Frozen: the same image always gets the same answer, whatever else is asked with it."""

    name: str
    prepare: Callable[[Tensor], Tensor]  # uint8 [B, C, S, S] as the data has them -> float [B, ...]
    backbone: nn.Module  # what `prepare` returns -> features [B, d]
    head: nn.Module  # features -> logits [B, classes]
    device: torch.device
    batch_size: int
    precision: Precision = "float32"

    @torch.no_grad()
    def answer(self, prepared: Tensor) -> dict[str, Tensor]:
        """float32 logits [B, classes] and features [B, d] for images as `prepare` returns them."""
        with autocast(self.device, self.precision):
            features = self.backbone(prepared).float()
        return {"logits": self._logits(features), "features": features}

    def _logits(self, features: Tensor) -> Tensor:
        """The head, given 16 rows at least: in a smaller product MKL lets a row's place decide its last bit."""
        filled = nn.functional.pad(features, (0, 0, 0, max(0, 16 - len(features))))
        logits: Tensor = self.head(filled)[: len(features)]
        return logits

    def ask(self, images: npt.NDArray[np.uint8]) -> TeacherOutputs:
        """Answers for uint8 [N, C, S, S]. Raises SpecError where they are not finite.

        Every batch is filled up to `batch_size`: kernels then treat each image alike, and its answer
        is the same to the last bit in whatever company it is asked.
        """
        parts = [self._ask(images[start : start + self.batch_size]) for start in range(0, len(images), self.batch_size)]
        answers = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not all(np.isfinite(answer).all() for answer in answers.values()):
            raise SpecError(f"teacher: {self.name} gives answers that are not finite.")
        return answers

    def _ask(self, images: npt.NDArray[np.uint8]) -> TeacherOutputs:
        filled = images[np.minimum(np.arange(self.batch_size), len(images) - 1)]
        answers = self.answer(self.prepare(torch.from_numpy(filled).to(self.device)))
        return {name: answer[: len(images)].cpu().numpy() for name, answer in answers.items()}

    @property
    def width(self) -> int:
        """How many features an image has."""
        return next(layer.in_features for layer in self.head.modules() if isinstance(layer, nn.Linear))

    @property
    def outputs(self) -> int:
        """How many logits an image has."""
        return self.head(torch.zeros(1, self.width, device=self.device)).shape[1]  # type: ignore[no-any-return]

    def flops(self, image: npt.NDArray[np.uint8]) -> int:
        """Floating-point operations of one image's forward pass, without its preparation."""
        prepared = self.prepare(torch.from_numpy(image[None]).to(self.device))
        with torch_layers(self.backbone):
            return count_flops(lambda: self.head(self.backbone(prepared)))


def frozen(module: nn.Module, *, fast_layers: bool = False) -> nn.Module:
    """Put the module into eval mode without gradients, with faster layers if `fast_layers` is set, and return it."""
    module = use_fast_layers(module) if fast_layers else module
    return module.eval().requires_grad_(False)
