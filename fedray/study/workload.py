"""Counts the work of a trial from its spec and its partition, without running it."""

import heapq
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.models import proxies
from fedray.models.flops import training_flops
from fedray.models.proxies import Proxy
from fedray.models.weights import get_weights, nbytes
from fedray.seeding import torch_rng
from fedray.server.cohort import draw_cohort
from fedray.server.teacher_client import cache_entry
from fedray.server.teacher_queries import RoundQueries
from fedray.teachers.cache import CacheEntry, TeacherCache
from fedray.types import ImageShape, Indices, TeacherQuery

FEATURE_WIDTH = 512
"""Width of features that are not known yet, which is that of CLIP ViT-B/32."""


@dataclass(frozen=True)
class Workload:
    """The remaining work of one trial."""

    steps: tuple[int, ...]  # SGD steps in one round, of each client with examples
    examples: int  # that a cohort trains on in a round, once per local epoch; the mean over cohorts
    cohort: int  # clients per round
    rounds: int
    evaluations: int
    test_images: int
    weights_bytes: int  # of the proxy
    flops: int  # of training the proxy in all rounds, forward and backward

    @property
    def bytes(self) -> int:
        """Bytes sent between driver and clients: the proxy to each client and back."""
        return 2 * self.rounds * self.cohort * self.weights_bytes

    def makespan(self, actors: int) -> float:
        """Return the steps of the busiest actor in a round. The client with most steps is placed first."""
        share = self.cohort / len(self.steps)
        free = [0.0] * min(actors, self.cohort)
        for steps in sorted(self.steps, reverse=True):
            heapq.heapreplace(free, free[0] + steps * share)
        return max(free)


def workload(
    experiment: Experiment, data: FederatedDataset, done: int = 0, feature_width: int = FEATURE_WIDTH
) -> Workload:
    """Count the work of the rounds after `done`. `feature_width`: of the features that a linear probe reads."""
    training = experiment.training
    sizes = [len(shard) for shard in data.shards if len(shard)]
    cohort = training.cohort_size(len(sizes))
    rounds = training.rounds - done
    strategy = experiment.strategy
    examples = sum(strategy.round_examples(training, size) for size in sizes) * cohort // len(sizes)
    weights_bytes, flops = _proxy_costs(experiment.proxy, proxy_shape(experiment, data, feature_width))
    every = experiment.evaluation.every
    regular = training.rounds // every - done // every
    is_extra = rounds > 0 and training.rounds % every != 0  # the last round is always evaluated
    return Workload(
        tuple(strategy.round_steps(training, size) for size in sizes),
        examples, cohort, rounds, regular + is_extra, len(data.test), weights_bytes, flops * examples * rounds,
    )  # fmt: skip


def proxy_shape(experiment: Experiment, data: FederatedDataset, feature_width: int = FEATURE_WIDTH) -> ImageShape:
    """Return the shape of the proxy's inputs: that of the images, or of features of this width."""
    images = data.train.shape
    return ImageShape(feature_width, 1, images.classes) if experiment.proxy.reads_features else images


@lru_cache
def _proxy_costs(proxy: Proxy, data: ImageShape) -> tuple[int, int]:
    """Bytes of the proxy's weights, and floating-point operations to train it on one example."""
    with torch_rng(None, 0, "bytes"):
        weights = get_weights(proxies.build(proxy.model_copy(update={"init": "random"}), data))
    return nbytes({"weights": weights}), training_flops(proxy, data)


class QueryCounter:
    """Counts the cached and the missing teacher outputs of trials. An output that several trials need counts once."""

    def __init__(self, teacher_cache: TeacherCache) -> None:
        self._teacher_cache = teacher_cache
        self._needed: dict[str, npt.NDArray[np.bool_]] = {}
        self._missing: dict[str, npt.NDArray[np.bool_]] = {}

    @property
    def cached(self) -> int:
        """Number of outputs that the trials need and the cache has."""
        return sum(int(rows.sum()) for rows in self._needed.values()) - self.missing

    @property
    def missing(self) -> int:
        """Number of forward passes that are still to be computed."""
        return sum(int(rows.sum()) for rows in self._missing.values())

    def add(self, experiment: Experiment, data: FederatedDataset) -> int:
        """Count one trial. Return how many outputs its steps read, cached or computed online."""
        queries, entries, used = RoundQueries(experiment, data), dict[TeacherQuery, CacheEntry](), 0
        for number in range(1, experiment.training.rounds + 1):
            cohort = draw_cohort(experiment, data.shards, number)
            used += queries.outputs_used(number, cohort)
            for query, rows in queries.of_round(number, cohort).items() if number == 1 or queries.augmented else ():
                if query not in entries:  # its key hashes the teacher's weights
                    entries[query] = cache_entry(query, experiment, data, self._teacher_cache)
                self._count(entries[query], rows)
        return used

    def feature_width(self, experiment: Experiment, data: FederatedDataset) -> int:
        """Return the width of the features that a linear probe reads, if the cache has any; else FEATURE_WIDTH."""
        if not experiment.proxy.reads_features:
            return FEATURE_WIDTH
        entry = cache_entry(TeacherQuery(0, "features"), experiment, data, self._teacher_cache)
        return entry.width or FEATURE_WIDTH

    def _count(self, entry: CacheEntry, rows: Indices) -> None:
        missing = rows[~entry.peek(rows)[1]]
        for counted, new in ((self._needed, rows), (self._missing, missing)):
            counted.setdefault(entry.key, np.zeros(entry.rows, dtype=bool))[new] = True
