"""The two ways in which a client's steps come by the teacher's answers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedray.teachers.ensemble import LogitEnsemble
from fedray.teachers.teacher import Teacher
from fedray.training.batches import AugmentedBatch, mixup
from fedray.types import OutputKind


class CachedTargets:
    """Answers that came with the task: for each quantity float32 [E, n, width], E epochs or 1 for all."""

    def __init__(self, targets: Mapping[str, npt.NDArray[np.float32]], first_epoch: int, device: torch.device) -> None:
        self._targets = {name: torch.from_numpy(np.array(values)).to(device) for name, values in targets.items()}
        self._first = first_epoch

    @property
    def width(self) -> int:
        """How many features an image has."""
        return self._targets["features"].shape[2]

    def __call__(self, seen: AugmentedBatch) -> dict[str, Tensor]:
        """The batch's rows."""
        return {
            name: values[(seen.epoch - self._first) % len(values)][seen.chosen]
            for name, values in self._targets.items()
        }


@dataclass
class OnlineTargets:
    """Teachers that sit in the client's process and answer each batch anew."""

    teachers: Sequence[Teacher]
    blend: LogitEnsemble | None  # how several become one
    output_kinds: Sequence[OutputKind]
    proxy_view: bool
    flops_per_image: int  # of all its teachers together
    passes: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    @property
    def flops(self) -> int:
        """Floating-point operations of all its passes."""
        return self.passes // len(self.teachers) * self.flops_per_image

    @property
    def width(self) -> int:
        """How many features an image has."""
        return self.teachers[0].width

    def __call__(self, seen: AugmentedBatch) -> dict[str, Tensor]:
        """What they say of the batch's images, or of the views that the proxy sees."""
        start = time.perf_counter()
        images = seen.views if self.proxy_view else seen.plain
        answers = [teacher.answer(mixup(teacher.prepare(images), seen.mix)) for teacher in self.teachers]
        self.passes += len(images) * len(answers)
        if images.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        if self.blend is None:
            return {output_kind: answers[0][output_kind] for output_kind in self.output_kinds}
        return {"logits": self.blend([answer["logits"] for answer in answers])}
