"""Clients in Ray actors: each pinned to its share of a GPU, or one per core."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from fedray.backends.base import Backend, CallFailure, CallResult
from fedray.backends.ray.dispatch import Dispatch, free_resources, wait_for_worker
from fedray.backends.ray.node_sums import DistributedSum, NodeReducers, ray_get
from fedray.backends.ray.pool import ActorPool, WorkerSlot
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset

if TYPE_CHECKING:
    from fedray.workers.worker import Worker

STRAGGLER_TIMEOUT_S = 30.0
"""Seconds to wait for the rest of the actors when some are there: they join as they come."""


class RayBackend(Backend):
    """A pool of worker actors. A handle is an object reference.

    With as many actors as clients, client i always runs in actor i. Weights and data are read from
    the node's shared memory without a copy. An actor that is lost is replaced; as nodes come and go,
    so do actors.
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
        train, test, rest = self._put(federated)
        self._worker = (worker, experiment, train, test, rest)
        super().__init__(replace(federated, train=ray_get(train), test=ray_get(test)))
        self._pool.fit(experiment, len(federated.shards))
        self._adders = NodeReducers()
        for post in self._pool.posts:
            self._begin(post)

    @property
    def at_once(self) -> int:
        return self._pool.at_once

    def share(self, value: Any) -> Any:
        return self._store.put(value)

    def share_targets(self, targets: dict[str, Any]) -> Any:
        return self._store.put_targets(targets)

    def fetch(self, handle: Any) -> Any:
        return ray_get(handle)

    def ready(self) -> Iterator[str]:
        start = told = time.monotonic()
        while coming := {post.begun: post for post in self._pool.posts if not post.node}:
            now = time.monotonic()
            if now - start > STRAGGLER_TIMEOUT_S and len(coming) < len(self._pool.posts):
                return
            if now - told > 10:
                told = now
                yield f"{len(coming)} of {len(self._pool.posts)} workers have not started; {free_resources()}"
            for begun in ray.wait(list(coming), timeout=1)[0]:
                self._settle(coming[begun])

    def map(
        self, method: str, calls: Sequence[tuple[Any, ...]], seconds: float | None = None
    ) -> Iterator[CallResult | CallFailure]:
        for post in self._pool.follow():
            self._begin(post)
        return Dispatch(self._pool, self._begin, method, calls, seconds, self.faults).outcomes()

    def total(self) -> DistributedSum:
        return self._adders.total()

    def close(self) -> None:
        self._adders.close()
        if self._owns_pool:
            self._pool.close()

    def _put(self, federated: FederatedDataset) -> tuple[Any, Any, Any]:
        """Its sets apart, each once per node, and the rest."""
        rest = {field.name: getattr(federated, field.name) for field in fields(federated)}
        train, test = rest.pop("train"), rest.pop("test")
        return self._store.put(train), self._store.put(test), self._store.put(rest)

    def _begin(self, post: WorkerSlot) -> WorkerSlot:
        """Have the actor make its worker."""
        post.node = ""
        post.begun = post.actor.begin.remote(*self._worker)
        return post

    def _settle(self, post: WorkerSlot) -> None:
        try:
            wait_for_worker(post)
        except RayActorError as error:
            self._begin(self._pool.replace(post, error))
