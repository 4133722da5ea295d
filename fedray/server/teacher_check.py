"""`fedray teachers check_teachers`: how often a spec's teachers are right about the test set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedray.config.experiment import Experiment
from fedray.data.dataset import Dataset
from fedray.data.federated import FederatedDataset
from fedray.errors import SpecError
from fedray.server.teacher_queries import TeacherClient
from fedray.teachers.precomputed import PrecomputedTeacher
from fedray.teachers.published import published
from fedray.teachers.sections import Adapted, AnyMember, Precomputed, ZeroShot, members
from fedray.types import Progress, TeacherQuery


@dataclass(frozen=True)
class TeacherAccuracy:
    """What was found out about one teacher."""

    teacher: str
    data: str
    images: int
    accuracy: float
    published: float | None  # in percent, where it is known


def check_teachers(
    experiment: Experiment, federated: FederatedDataset, teacher_client: TeacherClient
) -> Iterator[Progress | TeacherAccuracy]:
    """Ask each teacher about the test set, through the bank. An adapted one is checked as it was before."""
    for place, member in enumerate(members(experiment.teacher)):
        if isinstance(member, Precomputed):
            data, logits = _looked_up(member, federated)
        else:
            data, question = federated.test, TeacherQuery(place, "logits", side="test")
            logits = (yield from teacher_client.answers({question: np.arange(len(data))}))[question]
        yield _checked(member, data, float((logits.argmax(1) == data.labels).mean()))


def once_each(experiments: Iterable[Experiment]) -> list[Experiment]:
    """One experiment for each different teacher and data."""
    different = {
        (experiment.teacher, experiment.data, experiment.seed): experiment
        for experiment in experiments
        if experiment.teacher is not None
    }
    if not different:
        raise SpecError("the spec has no teacher to check.")
    return list(different.values())


def _looked_up(member: Precomputed, federated: FederatedDataset) -> tuple[Dataset, np.ndarray]:
    """A table is for whichever set its keys are of: the test set, or else what the clients hold."""
    table = PrecomputedTeacher(member)
    held = federated.train.take(np.concatenate(federated.shards))
    try:
        return federated.test, table.answers("logits", federated.test)
    except SpecError:
        return held, table.answers("logits", held)


def _checked(member: AnyMember, data: Dataset, accuracy: float) -> TeacherAccuracy:
    network = member.backbone if isinstance(member, Adapted) else member
    known = published(network.model, network.pretrained, data.classes) if isinstance(network, ZeroShot) else None
    return TeacherAccuracy(_name(network), data.name, len(data), accuracy, known)


def _name(member: AnyMember) -> str:
    said = [getattr(member, field, None) for field in ("model", "pretrained", "file")]
    return " ".join([member.kind, *(str(word) for word in said if isinstance(word, str | Path))])
