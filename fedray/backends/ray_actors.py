"""Clients in Ray actors: each pinned to its share of a GPU, or one per core."""

import platform
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fedray.backends.base import Answer, Backend, Failure
from fedray.backends.pool import plan_pool
from fedray.config import Experiment
from fedray.data.federation import Federation
from fedray.worker import Worker

LOST = 3
"""How many actors may be lost to one call before the call is given up. A call is pure: it can be
made again anywhere."""


class RayBackend(Backend):
    """A pool of worker actors. A handle is an object reference.

    With as many actors as clients, client i always runs in actor i (as long as that lives).
    Weights and data are read from the node's shared memory without a copy.
    """

    def __init__(self, experiment: Experiment, federation: Federation, worker: type[Worker] = Worker) -> None:
        pool = plan_pool(experiment, len(federation.shards), ray.cluster_resources())  # type: ignore[no-untyped-call]
        data = ray.put(federation)
        actor = ray.remote(worker).options(
            num_cpus=pool.cpus_per_actor, num_gpus=experiment.resources.gpus_per_client, max_restarts=-1
        )
        self._actors: list[Any] = [actor.remote(experiment, data) for _ in range(pool.actors)]
        self._at_once = pool.at_once

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def fetch(self, handle: Any) -> Any:
        return ray.get(handle)

    def map(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Answer | Failure]:
        waiting = deque(range(len(calls)))
        losses = [0] * len(calls)
        idle = list(range(len(self._actors)))
        busy: dict[Any, tuple[int, int, Any]] = {}
        while waiting or busy:
            while waiting and idle and len(busy) < self._at_once:
                call = waiting.popleft()
                place = idle.pop(self._choose(idle, calls[call][0]))
                answer, kept = self._begin(self._actors[place], method, calls[call])
                busy[answer] = (call, place, kept)
            (answer,), _ = ray.wait(list(busy), num_returns=1)
            call, place, kept = busy.pop(answer)
            idle.append(place)
            try:
                yield Answer(call, ray.get(answer), kept)
            except RayActorError as error:
                losses[call] += 1
                if losses[call] < LOST:
                    waiting.appendleft(call)
                else:
                    yield Failure(call, "unknown", error, str(error))
            except RayTaskError as error:
                yield Failure(call, getattr(error, "ip", None) or platform.node(), error.cause, error.traceback_str)

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def _choose(self, idle: Sequence[int], subject: Any) -> int:
        """The client's own actor if it is idle, else whichever has been idle longest."""
        home = getattr(subject, "client", 0) % len(self._actors)
        return idle.index(home) if home in idle else 0

    def _begin(self, actor: Any, method: str, call: tuple[Any, ...]) -> list[Any]:
        references: list[Any] = getattr(actor, method).options(num_returns=2).remote(*call)
        return references
