"""`fedray teachers check`: the accuracy of a spec's teachers on the test set."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedray.backends.base import MakeBackend
from fedray.config.experiment import Experiment
from fedray.data.dataset import Dataset
from fedray.data.federated import FederatedDataset, load
from fedray.errors import SpecError
from fedray.server.teacher_client import TeacherClient
from fedray.teachers.cache import OutputArray, TeacherCache
from fedray.teachers.class_check import check_classes
from fedray.teachers.precomputed import PrecomputedTeacher
from fedray.teachers.published import published
from fedray.teachers.sections import AnyMember, Precomputed, Supervised, TeacherSection, ZeroShot, members, network_of
from fedray.types import Notice, OnProgress, TeacherQuery


@dataclass(frozen=True)
class TeacherAccuracy:
    """Accuracy of one teacher on one data set."""

    teacher: str
    data: str
    images: int
    accuracy: float  # a fraction
    published: float | None  # in percent, where it is known


def check_teachers(
    experiment: Experiment, cache: Path, make_backend: MakeBackend, on_progress: OnProgress
) -> list[TeacherAccuracy]:
    """Read the data, start a backend and return the accuracy of each teacher. `cache`: the cache folder."""
    federated = load(experiment.data, experiment.partition, experiment.seed)
    for sentence in federated.left_out:
        on_progress(Notice(sentence))
    check_classes(experiment.teacher, federated.train)
    backend = make_backend(experiment, federated)
    try:
        teacher_client = TeacherClient(experiment, federated, backend, TeacherCache(cache))
        return teacher_accuracies(experiment, federated, teacher_client, on_progress)
    finally:
        backend.close()


def teacher_accuracies(
    experiment: Experiment, federated: FederatedDataset, teacher_client: TeacherClient, on_progress: OnProgress
) -> list[TeacherAccuracy]:
    """Measure the accuracy of each teacher on the test set; of an adapted teacher, before it is adapted.

    A precomputed teacher without outputs for the test set is measured on the clients' examples.
    """
    accuracies = []
    for index, member in enumerate(members(experiment.teacher)):
        if isinstance(member, Precomputed):
            data, logits = _precomputed_logits(member, federated)
        else:
            data, query = federated.test, TeacherQuery(index, "logits", side="test")
            logits = teacher_client.outputs({query: np.arange(len(data))}, on_progress)[query]
        accuracies.append(_accuracy(member, data, logits))
    return accuracies


def distinct_teachers(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Return one experiment for each combination of teacher, data and seed. Raises SpecError where there is none."""
    distinct = {
        (experiment.teacher, experiment.data, experiment.seed): experiment
        for experiment in experiments
        if experiment.teacher is not None
    }
    if not distinct:
        raise SpecError("the spec has no teacher to check.")
    return list(distinct.values())


def _precomputed_logits(member: Precomputed, federated: FederatedDataset) -> tuple[Dataset, OutputArray]:
    """Logits of the data set that the table is for: the test set, or else the clients' examples."""
    table = PrecomputedTeacher(member)
    try:
        return federated.test, table.outputs("logits", federated.test)
    except SpecError:
        examples = federated.train.take(np.concatenate(federated.shards))
        return examples, table.outputs("logits", examples)


def _accuracy(member: AnyMember, data: Dataset, logits: OutputArray) -> TeacherAccuracy:
    network = network_of(member)
    known = published(network.model, network.pretrained, data.classes) if isinstance(network, ZeroShot) else None
    accuracy = float((logits.argmax(1) == data.labels).mean())
    return TeacherAccuracy(_name(network), data.name, len(data), accuracy, known)


def _name(member: AnyMember) -> str:
    """`zero_shot ViT-B-32 openai`, `precomputed logits.parquet`, `supervised`."""
    match network := network_of(member):
        case Precomputed():
            return f"{network.kind} {network.file}"
        case Supervised() | TeacherSection():
            return network.kind
        case _:
            return " ".join(filter(None, [network.kind, network.model, network.pretrained]))
