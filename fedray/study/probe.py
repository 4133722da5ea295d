"""How fast this machine does what a trial consists of: a few steps, measured."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedray.aggregation.exact_mean import ExactMean
from fedray.backends.base import Backend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.models.weights import get_weights
from fedray.results import checkpoint
from fedray.study.workload import Workload
from fedray.teachers.sections import Adapted, Precomputed, members
from fedray.types import ClientTask, ClientUpdate, ServerState, TeacherOutput, TeacherQuery
from fedray.workers.worker import initial_model

FEW, MORE = 2, 8
"""Batches of a client in the two runs whose difference is the time of a step."""


@dataclass(frozen=True)
class StepTiming:
    """Seconds, as they are while every actor of the cluster works."""

    step: float  # of training, one batch
    call: float  # to train a client, apart from its steps
    image: float  # to evaluate one
    update: float  # the driver's, to add one client's update
    round: float  # the driver's, to end a round: the mean, the checkpoint
    memory: int  # bytes, the most that a worker's process has held

    def of(self, work: Workload, actors: int) -> float:
        """The seconds of a trial's rounds with so many actors."""
        training = work.makespan(actors) * self.step + work.cohort / min(actors, work.cohort) * self.call
        rounds = work.rounds * (training + work.cohort * self.update + self.round)
        return rounds + work.evaluations * work.test_images * self.image / actors


@dataclass(frozen=True)
class TeacherTiming:
    """What one forward pass of a teacher costs."""

    seconds: float
    flops: int
    memory: int
    problem: str = ""  # why it could not be measured


def measure(experiment: Experiment, data: FederatedDataset, make_backend: Any, actors: int) -> StepTiming:
    """Train a few batches on every actor at once. Raises what a client raises."""
    once = experiment.training.model_copy(update={"local_epochs": 1})
    experiment = experiment.model_copy(update={"training": once})
    largest = sorted(range(len(data.shards)), key=lambda client: -len(data.shards[client]))[:actors]
    weights = get_weights(initial_model(experiment.proxy.model_copy(update={"init": "random"}), data, 0, "probe"))
    runs = list[_Trained]()
    for batches in (FEW, MORE):
        cut = replace(data, shards=tuple(shard[: batches * once.batch_size] for shard in data.shards))
        with _backend(make_backend, experiment, cut) as backend:
            calls = [(ClientTask(1, c), weights, _zeros(experiment, cut, c), None) for c in largest]
            seconds, updates = _timed(backend, "train", calls)
            steps = float(np.mean([-(-len(cut.shards[c]) // once.batch_size) for c in largest]))
            runs.append(_Trained(seconds, steps, updates))
            images = min(500, len(data.test))
            image = _timed(backend, "evaluate", [((0, images), weights)] * actors)[0] / images
    few, more = runs
    slope = (more.seconds - few.seconds) / (more.steps - few.steps) if more.steps > few.steps else 0.0
    step = slope if slope > 0 else more.seconds / more.steps  # shards of a batch or two, or a noisy machine
    update, ending = _driver_seconds(weights)
    memory = max(each.peak_bytes for each in more.updates)
    return StepTiming(step, max(0.0, few.seconds - few.steps * step), image, update, ending, memory)


@dataclass(frozen=True)
class _Trained:
    seconds: float
    steps: float  # of each client, on average
    updates: Sequence[ClientUpdate]


def forwards(experiment: Experiment, data: FederatedDataset, make_backend: Any) -> list[TeacherTiming]:
    """One batch through each teacher that looks at images and is asked for the bank."""
    teacher = experiment.teacher
    if teacher is None or teacher.mode != "cached" or not experiment.strategy.required_outputs:
        return []
    networks = [m for m, spec in enumerate(members(teacher)) if not isinstance(spec, Precomputed)]
    output_kind = sorted(experiment.strategy.required_outputs)[0]
    with _backend(make_backend, experiment, data) as backend:
        return [_forward(backend, experiment, data, member, output_kind) for member in networks]


def _forward(
    backend: Backend, experiment: Experiment, data: FederatedDataset, member: int, output_kind: Any
) -> TeacherTiming:
    spec = members(experiment.teacher)[member]
    network = spec.backbone if isinstance(spec, Adapted) else spec
    rows = np.arange(min(network.batch_size, len(data.train)))
    question = TeacherQuery(member, "features" if isinstance(spec, Adapted) else output_kind)
    try:
        seconds, lessons = _timed(backend, "teach", [(question, rows, None)])
    except Exception as error:  # a teacher that cannot be had: the rest of the plan is still worth reading
        return TeacherTiming(float("nan"), 0, 0, str(error).splitlines()[0])
    lesson: TeacherOutput = lessons[0]
    return TeacherTiming(seconds / len(rows), lesson.flops // len(rows), lesson.peak_bytes)


def _timed(backend: Backend, method: str, calls: Sequence[tuple[Any, ...]]) -> tuple[float, list[Any]]:
    """Seconds until all calls are done, the second time: the first pays for what is made once."""
    backend.collect(method, calls)
    start = time.perf_counter()
    values = backend.collect(method, calls)
    return time.perf_counter() - start, values


def _zeros(experiment: Experiment, data: FederatedDataset, client: int) -> dict[str, Any] | None:
    """Lessons that say nothing, as large as real ones, features apart; None where a teacher sits with the client."""
    if getattr(experiment.teacher, "mode", "online") == "online" or not experiment.strategy.required_outputs:
        return None
    width = {"logits": len(data.train.classes), "features": FEATURES}
    shape = (1, len(data.shards[client]))
    return {
        output_kind: np.zeros((*shape, width[output_kind]), np.float32)
        for output_kind in experiment.strategy.required_outputs
    }


FEATURES = 512
"""As wide as those of CLIP ViT-B/32."""


def _driver_seconds(weights: Any) -> tuple[float, float]:
    """To add one update, and to end a round with the mean and a checkpoint."""
    mean = ExactMean()
    mean.add(weights, 1)
    start = time.perf_counter()
    mean.add(weights, 1)
    added = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), ServerState(1, mean.mean(like=weights)), {})
    return added - start, time.perf_counter() - added


@contextmanager
def _backend(make_backend: Any, experiment: Experiment, data: FederatedDataset) -> Iterator[Backend]:
    backend: Backend = make_backend(experiment, data)
    try:
        yield backend
    finally:
        backend.close()
