"""What a teacher is, and how one is loaded."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from fedray.config import Experiment, Precomputed, Supervised, ZeroShot
from fedray.data.dataset import Dataset
from fedray.data.federation import Federation
from fedray.errors import SpecError

if TYPE_CHECKING:
    import torch

Logits = npt.NDArray[np.float32]


class Teacher(Protocol):
    """Frozen: the same images always get the same logits."""

    def logits(self, data: Dataset) -> Logits:
        """float32 [N, classes] for the data's images as they were read, without augmentation."""
        ...


def load(experiment: Experiment, federation: Federation, device: "torch.device") -> Teacher:
    """The teacher that the spec names, ready to answer. Raises SpecError where it cannot be had."""
    match experiment.teacher:
        case Precomputed() as spec:
            from fedray.teachers.precomputed import PrecomputedTeacher

            return PrecomputedTeacher(spec)
        case Supervised() as spec:
            from fedray.teachers.supervised import SupervisedTeacher

            return SupervisedTeacher(spec, federation, experiment.seed, device)
        case ZeroShot() as spec:
            from fedray.teachers.zero_shot import ZeroShotTeacher

            return ZeroShotTeacher(spec, federation.train.classes, device)
        case None:
            raise SpecError("the spec has no teacher to load")


def check_logits(logits: Logits, data: Dataset, teacher: str) -> Logits:
    """Raises SpecError unless there is one finite row for each image and one column for each class."""
    expected = (len(data), len(data.classes))
    if logits.shape != expected:
        raise SpecError(
            f"teacher: {teacher} gives logits {list(logits.shape)}, but {data.name} needs {list(expected)} "
            "(images x classes)."
        )
    if not np.isfinite(logits).all():
        raise SpecError(f"teacher: {teacher} gives logits that are not finite.")
    return logits
