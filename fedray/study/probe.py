"""Measures the speed of a trial's work on this machine: a few training steps, evaluations and teacher passes."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedray.aggregation.exact_mean import ExactMean, cast_like
from fedray.backends.base import Backend, MakeBackend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import RunError
from fedray.models.weights import describe_parameters, get_weights
from fedray.results import checkpoint
from fedray.server.step import broadcast
from fedray.study.workload import FEATURE_WIDTH, Workload, proxy_shape
from fedray.teachers.sections import Adapted, ImageTeacher, members, network_of
from fedray.types import (
    ClientFailure,
    ClientUpdate,
    Outcome,
    OutputKind,
    ServerState,
    TargetArrays,
    TeacherQuery,
    Weights,
)
from fedray.workers.client_models import initial_model
from fedray.workers.requests import ClientTask, Evaluate, QueryTeacher, R, Request, Shared, TrainClients

FEW_BATCHES, MORE_BATCHES = 2, 8
"""Batches per client in two runs: the difference of their durations gives the duration of a step."""

EVALUATED_IMAGES = 500
"""Images of the timed evaluation, at most."""


@dataclass(frozen=True)
class StepTiming:
    """Durations in seconds while every actor of the cluster is busy."""

    step: float  # one training step
    call: float  # training one client, without its steps
    image: float  # evaluating one image
    update: float  # in the driver: adding one client's update
    round: float  # in the driver: the mean and the checkpoint at the end of a round
    memory: int  # bytes, the peak of any worker process

    def of(self, work: Workload, actors: int) -> float:
        """Return the seconds of a trial's rounds on a number of actors."""
        training = work.makespan(actors) * self.step + work.cohort / min(actors, work.cohort) * self.call
        rounds = work.rounds * (training + work.cohort * self.update + self.round)
        return rounds + work.evaluations * work.test_images * self.image / actors


@dataclass(frozen=True)
class TeacherTiming:
    """Cost of one forward pass of a teacher."""

    seconds: float
    flops: int
    memory: int
    problem: str = ""  # why it could not be measured


def measure(experiment: Experiment, data: FederatedDataset, make_backend: MakeBackend, actors: int) -> StepTiming:
    """Time a few batches of training on all actors at the same time. Raises the errors of the clients."""
    training = experiment.training.model_copy(update={"local_epochs": 1, "local_steps": None})
    experiment = experiment.model_copy(update={"training": training})
    clients = sorted(range(len(data.shards)), key=lambda client: -len(data.shards[client]))[:actors]
    proxy = experiment.proxy.model_copy(update={"init": "random"})
    shape = proxy_shape(experiment, data)
    model = initial_model(proxy, shape, 0, "probe")
    weights = get_weights(model)
    extra = experiment.strategy.server_init(weights, describe_parameters(model, shape.classes))
    arrays = broadcast(experiment, ServerState(0, weights, extra))
    runs = list[_TimedRun]()
    for batches in (FEW_BATCHES, MORE_BATCHES):
        cut = replace(data, shards=tuple(shard[: batches * training.batch_size] for shard in data.shards))
        with _backend(make_backend, experiment, cut) as backend:
            shared = backend.share(arrays)
            tasks = [
                ClientTask(1, client, _placeholder_targets(backend, experiment, cut, client)) for client in clients
            ]
            seconds, outcomes = _timed(backend, [TrainClients((task,), shared) for task in tasks])
            updates = [_update(outcome) for (outcome,) in outcomes]
            sizes = [len(cut.shards[client]) for client in clients]
            steps = float(np.mean([experiment.strategy.round_steps(training, size) for size in sizes]))
            runs.append(_TimedRun(seconds, steps, updates))
            images = min(EVALUATED_IMAGES, len(data.test))
            request = Evaluate((0, images), shared, _placeholder_features(backend, experiment, images))
            image = _timed(backend, [request] * actors)[0] / images
    few, more = runs
    slope = (more.seconds - few.seconds) / (more.steps - few.steps) if more.steps > few.steps else 0.0
    step = slope if slope > 0 else more.seconds / more.steps  # for tiny shards, or a noisy machine
    update, end_of_round = _driver_seconds(weights)
    memory = max(update.peak_bytes for update in more.updates)
    return StepTiming(step, max(0.0, few.seconds - few.steps * step), image, update, end_of_round, memory)


@dataclass(frozen=True)
class _TimedRun:
    seconds: float
    steps: float  # mean over clients
    updates: Sequence[ClientUpdate]


def measure_teachers(experiment: Experiment, data: FederatedDataset, make_backend: MakeBackend) -> list[TeacherTiming]:
    """Time one batch of each teacher that is a network and has cached outputs."""
    teacher = experiment.teacher
    if teacher is None or teacher.mode != "cached" or not experiment.required_outputs:
        return []
    with _backend(make_backend, experiment, data) as backend:
        return [
            _measure_teacher(backend, experiment, data, index)
            for index, member in enumerate(members(teacher))
            if isinstance(network_of(member), ImageTeacher)
        ]


def _measure_teacher(backend: Backend, experiment: Experiment, data: FederatedDataset, index: int) -> TeacherTiming:
    member = members(experiment.teacher)[index]
    network = network_of(member)
    assert isinstance(network, ImageTeacher)
    rows = np.arange(min(network.batch_size, len(data.train)))
    output_kind: OutputKind = sorted(experiment.required_outputs)[0]
    query = TeacherQuery(index, "features" if isinstance(member, Adapted) else output_kind)
    try:
        seconds, (output,) = _timed(backend, [QueryTeacher(query, rows)])
    except Exception as error:  # a plan is useful even if a teacher cannot be loaded here
        return TeacherTiming(float("nan"), 0, 0, str(error).splitlines()[0])
    return TeacherTiming(seconds / len(rows), output.flops // len(rows), output.peak_bytes)


def _update(outcome: Outcome) -> ClientUpdate:
    if isinstance(outcome, ClientFailure):
        raise RunError(f"{outcome}\n{outcome.traceback}".rstrip())
    return outcome


def _timed(backend: Backend, requests: Sequence[Request[R]]) -> tuple[float, list[R]]:
    """Run all requests twice. Return the seconds and results of the second time, without one-time set-up costs."""
    backend.collect(requests)
    start = time.perf_counter()
    results = backend.collect(requests)
    return time.perf_counter() - start, results


def _placeholder_targets(
    backend: Backend, experiment: Experiment, data: FederatedDataset, client: int
) -> Shared[TargetArrays] | None:
    """Zeros of the shape of a client's targets; None where targets are computed online or not needed."""
    teacher, output_kinds = experiment.teacher, experiment.required_outputs
    if teacher is None or teacher.mode == "online" or not output_kinds:
        return None
    width = {"logits": len(data.train.classes), "features": FEATURE_WIDTH}
    examples = len(data.shards[client])
    return backend.share({kind: np.zeros((1, examples, width[kind]), np.float32) for kind in output_kinds})


def _placeholder_features(backend: Backend, experiment: Experiment, images: int) -> Shared[TargetArrays] | None:
    """Zeros in place of the test set's features; None for a proxy of images."""
    zeros = {"features": np.zeros((1, images, FEATURE_WIDTH), np.float32)}
    return backend.share(zeros) if experiment.proxy.reads_features else None


def _driver_seconds(weights: Weights) -> tuple[float, float]:
    """Time the addition of one update, and the end of a round: the mean and a checkpoint."""
    mean = ExactMean()
    mean.add(weights, 1)
    start = time.perf_counter()
    mean.add(weights, 1)
    added = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), ServerState(1, cast_like(mean.mean(), weights)), {})
    return added - start, time.perf_counter() - added


@contextmanager
def _backend(make_backend: MakeBackend, experiment: Experiment, data: FederatedDataset) -> Iterator[Backend]:
    backend = make_backend(experiment, data)
    try:
        yield backend
    finally:
        backend.close()
