"""The backend on Ray: workers in actors, each with its share of a GPU, or one per core."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

import ray
from ray.exceptions import RayActorError

from fedray.backends.base import Backend, CallFailure, CallResult
from fedray.backends.ray.dispatch import Dispatch, free_resources, wait_for_worker
from fedray.backends.ray.node_sums import DistributedSum, NodeReducers
from fedray.backends.ray.pool import ActorPool, WorkerSlot
from fedray.backends.ray.references import RayShared
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.types import TargetArrays
from fedray.workers.requests import R, Request

if TYPE_CHECKING:
    from fedray.workers.worker import Worker

T = TypeVar("T")

STRAGGLER_TIMEOUT_S = 30.0
"""Seconds to wait for the other workers once some have started; later ones join when they are ready."""

MESSAGE_INTERVAL_S = 10.0
"""Seconds between two messages while workers start."""


class RayBackend(Backend):
    """Workers in a pool of actors.

    With as many actors as clients, client i always trains in actor i. Weights and data are read from
    the node's shared memory without a copy. An actor that is lost is replaced, and the number of actors
    follows the number of nodes.
    """

    def __init__(
        self,
        experiment: Experiment,
        federated: FederatedDataset,
        pool: ActorPool | None = None,
        worker: "type[Worker] | None" = None,
    ) -> None:
        self._pool, self._owns_pool = pool or ActorPool(), pool is None
        self._store = self._pool.store
        train, test = self._store.put(federated.train), self._store.put(federated.test)
        rest = {field.name: getattr(federated, field.name) for field in fields(federated)}
        del rest["train"], rest["test"]
        self._worker = (worker, experiment, train.reference, test.reference, self._store.put(rest).reference)
        super().__init__(replace(federated, train=train.get(), test=test.get()))
        self._pool.fit(experiment, len(federated.shards))
        self._reducers = NodeReducers()
        for slot in self._pool.slots:
            self._start_worker(slot)

    @property
    def parallelism(self) -> int:
        return self._pool.parallelism

    def share(self, value: T) -> RayShared[T]:
        return self._store.put(value)

    def share_targets(self, targets: TargetArrays) -> RayShared[TargetArrays]:
        return self._store.put_targets(targets)

    def ready(self) -> Iterator[str]:
        start = last_message = time.monotonic()
        while starting := {slot.starting: slot for slot in self._pool.slots if not slot.node}:
            now, slots = time.monotonic(), len(self._pool.slots)
            if now - start > STRAGGLER_TIMEOUT_S and len(starting) < slots:
                return
            if now - last_message > MESSAGE_INTERVAL_S:
                last_message = now
                yield f"{len(starting)} of {slots} workers have not started; {free_resources()}"
            for reference in ray.wait(list(starting), timeout=1)[0]:
                try:
                    wait_for_worker(starting[reference])
                except RayActorError as error:
                    self._start_worker(self._pool.replace(starting[reference], error))

    def run(
        self, requests: Sequence[Request[R]], timeout_s: float | None = None
    ) -> Iterator[CallResult[R] | CallFailure]:
        for slot in self._pool.rescale():
            self._start_worker(slot)
        return Dispatch(self._pool, self._start_worker, requests, timeout_s, self.faults).results()

    def reducer(self) -> DistributedSum:
        return self._reducers.new_sum()

    def close(self) -> None:
        self._reducers.close()
        if self._owns_pool:
            self._pool.close()

    def _start_worker(self, slot: WorkerSlot) -> WorkerSlot:
        """Let the slot's actor create its worker."""
        slot.node = ""
        slot.starting = slot.actor.start_worker.remote(*self._worker)
        return slot
