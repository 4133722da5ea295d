"""The targets that a batch's loss reads: from the teacher cache, or from teachers in the client's process."""

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
    """Targets that arrive with the task: float32 [E, n, width] for each output kind, E epochs or 1 for all."""

    def __init__(self, targets: Mapping[str, npt.NDArray[np.float32]], first_epoch: int, device: torch.device) -> None:
        self._targets = {name: torch.from_numpy(np.array(array)).to(device) for name, array in targets.items()}
        self._first_epoch = first_epoch

    @property
    def width(self) -> int:
        """Number of features per image."""
        return self._targets["features"].shape[2]

    def __call__(self, batch: AugmentedBatch) -> dict[str, Tensor]:
        """Return the batch's rows of each output kind, [B, width]."""
        return {
            name: epochs[(batch.epoch - self._first_epoch) % len(epochs)][batch.positions]
            for name, epochs in self._targets.items()
        }


@dataclass
class OnlineTargets:
    """Targets that teachers in the client's process compute for each batch."""

    teachers: Sequence[Teacher]
    ensemble: LogitEnsemble | None  # combines the logits of several teachers
    output_kinds: Sequence[OutputKind]
    proxy_view: bool  # whether teachers get the proxy's views, not the plain images
    flops_per_image: int  # of all teachers together
    forward_passes: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    @property
    def flops(self) -> int:
        """Floating-point operations of all forward passes so far."""
        return self.forward_passes // len(self.teachers) * self.flops_per_image

    @property
    def width(self) -> int:
        """Number of features per image."""
        return self.teachers[0].width

    def __call__(self, batch: AugmentedBatch) -> dict[str, Tensor]:
        """Compute the teachers' outputs for the batch, [B, width] for each output kind, and count their cost."""
        start = time.perf_counter()
        images = batch.views if self.proxy_view else batch.plain
        outputs = [teacher.forward(mixup(teacher.prepare(images), batch.mix)) for teacher in self.teachers]
        self.forward_passes += len(images) * len(outputs)
        if images.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        if self.ensemble is None:
            return {output_kind: outputs[0][output_kind] for output_kind in self.output_kinds}
        return {"logits": self.ensemble([output["logits"] for output in outputs])}
