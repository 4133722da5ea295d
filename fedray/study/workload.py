"""What a trial has to do, counted from its spec and its partition, before anything runs."""

import heapq
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fedray.backends.ray.placement import cohort_size, draw_cohort
from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.models import proxies
from fedray.models.flops import training_flops
from fedray.models.proxies import Proxy
from fedray.models.weights import get_weights, nbytes
from fedray.seeding import torch_rng
from fedray.server.teacher_queries import Asked, QueryRows, TeacherClient
from fedray.server.teacher_targets import TeacherTargets
from fedray.teachers.cache import TeacherCache, Values
from fedray.types import ImageShape, TeacherQuery


@dataclass(frozen=True)
class Workload:
    """The rounds of one trial that are left."""

    steps: tuple[int, ...]  # of each client that holds examples, in one round
    examples: int  # that a round's cohort trains on, epochs counted, on average
    cohort: int
    rounds: int
    evaluations: int
    test_images: int
    weights_bytes: int
    flops: int  # of all rounds' training: the proxy's, forward and backward

    @property
    def bytes(self) -> int:
        """What crosses between driver and clients: the proxy down and up."""
        return 2 * self.rounds * self.cohort * self.weights_bytes

    def makespan(self, actors: int) -> float:
        """Steps one after another in a round: the longest client first, each to the actor that is free first."""
        share = self.cohort / len(self.steps)
        free = [0.0] * min(actors, self.cohort)
        for steps in sorted(self.steps, reverse=True):
            heapq.heapreplace(free, free[0] + steps * share)
        return max(free)


def workload(experiment: Experiment, data: FederatedDataset, done: int = 0) -> Workload:
    """Of the rounds after `done`."""
    training = experiment.training
    sizes = [len(shard) for shard in data.shards if len(shard)]
    cohort = cohort_size(len(sizes), training.participation)
    rounds = training.rounds - done
    examples = sum(sizes) * cohort // len(sizes) * training.local_epochs
    size, flops = _of_proxy(experiment.proxy, data.train.shape)
    last = sum(1 for number in range(done + 1, training.rounds + 1) if number % experiment.evaluation.every == 0)
    odd = rounds > 0 and training.rounds % experiment.evaluation.every != 0
    return Workload(
        tuple(-(-size // training.batch_size) * training.local_epochs for size in sizes),
        examples, cohort, rounds, last + odd, len(data.test), size, flops * examples * rounds,
    )  # fmt: skip


@lru_cache
def _of_proxy(proxy: Proxy, data: ImageShape) -> tuple[int, int]:
    """Bytes of its weights, and operations to train on one example."""
    with torch_rng(None, 0, "bytes"):
        weights = get_weights(proxies.build(proxy.model_copy(update={"init": "random"}), data))
    return nbytes(weights), training_flops(proxy, data)


class QueryCounter:
    """How many answers of teachers the bank has and lacks, for any number of trials, each counted once."""

    def __init__(self, teacher_cache: TeacherCache) -> None:
        self._teacher_cache = teacher_cache
        self._wanted: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
        self._lacking: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}

    @property
    def banked(self) -> int:
        """Answers that the trials will ask for, and the bank has."""
        return sum(int(rows.sum()) for rows in self._wanted.values()) - self.missing

    @property
    def missing(self) -> int:
        """Forward passes that are still to be made."""
        return sum(int(rows.sum()) for rows in self._lacking.values())

    def add(self, experiment: Experiment, data: FederatedDataset) -> int:
        """Count one trial; return how many answers its steps look at. An online teacher answers each anew."""
        backend = SerialBackend(experiment, data)
        lessons = TeacherTargets(
            experiment, data, backend, _CountingAsker(self, experiment, data, backend, self._teacher_cache)
        )
        used = 0
        with np.errstate(all="ignore"):
            for number in range(1, experiment.training.rounds + 1):
                cohort = draw_cohort(experiment, data.shards, number)
                used += lessons.asked(cohort)
                if number == 1 or lessons.augmented:
                    _exhaust(lessons.of_round(number, cohort))
        return used

    def note(self, key: str, rows: int, wanted: Any, lacking: Any) -> None:
        """These rows of an entry are wanted, and of them these are lacking."""
        for noted, new in ((self._wanted, wanted), (self._lacking, lacking)):
            noted.setdefault(key, np.zeros(rows, dtype=bool))[new] = True


class _CountingAsker(TeacherClient):
    """Says zero to everything, and keeps account of what it would have asked."""

    def __init__(self, counter: QueryCounter, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._counter = counter

    def answers(self, wanted: QueryRows, _: Any = None) -> Asked:
        answers: dict[TeacherQuery, Values] = {}
        for question, rows in wanted.items():
            entry = self._entry(question)
            if question.output_kind != "head":
                self._counter.note(entry.key, entry.rows, rows, rows[~entry.look(rows)[1]])
            width = {"logits": len(self._federated.train.classes), "features": 1, "head": 2}[question.output_kind]
            answers[question] = np.zeros((len(rows), width), np.float32)
        return answers
        yield


def _exhaust(generator: Generator[Any, None, Any]) -> None:
    for _ in generator:
        pass
