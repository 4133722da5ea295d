"""Clients in Ray actors: each pinned to its share of a GPU, or one per core."""

import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fedray.backends.actor_pool import ActorPool
from fedray.backends.base import Answer, Backend, Failure
from fedray.config import Experiment
from fedray.data.federation import Federation
from fedray.worker import Worker

LOST = 3
"""How often a call may lose its actor before it is given up. Calls are pure: they can be made again."""


class RayBackend(Backend):
    """A pool of worker actors. A handle is an object reference.

    With as many actors as clients, client i always runs in actor i. Weights and data are read from
    the node's shared memory without a copy. An actor that is lost is replaced.
    """

    def __init__(
        self,
        experiment: Experiment,
        federation: Federation,
        pool: ActorPool | None = None,
        worker: type[Worker] = Worker,
    ) -> None:
        self._pool, self._owns_pool = pool or ActorPool(), pool is None
        self._store = self._pool.store
        self._worker = (worker, experiment, *self._put(federation))
        self._pool.fit(experiment, len(federation.shards))
        self._begun = [actor.begin.remote(*self._worker) for actor in self._pool.actors]

    def share(self, value: Any) -> Any:
        return self._store.put(value)

    def share_lessons(self, lessons: dict[str, Any]) -> Any:
        return self._store.put_lessons(lessons)

    def fetch(self, handle: Any) -> Any:
        return ray.get(handle)

    def ready(self) -> None:
        ray.get(self._begun)  # raises what kept a worker from beginning

    def map(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Answer | Failure]:
        self.ready()
        waiting = deque(range(len(calls)))
        losses: Counter[int] = Counter()
        actors = self._pool.actors
        idle = list(range(len(actors)))
        busy: dict[Any, tuple[int, int, Any]] = {}
        while waiting or busy:
            while waiting and idle and len(busy) < self._pool.at_once:
                call = waiting.popleft()
                place = idle.pop(self._choose(idle, calls[call][0]))
                answer, kept = actors[place].call.options(num_returns=2).remote(method, *calls[call])
                busy[answer] = (call, place, kept)
            (answer,), _ = ray.wait(list(busy), num_returns=1)
            call, place, kept = busy.pop(answer)
            outcome = _outcome(call, answer, kept)
            lost = isinstance(outcome, Failure) and isinstance(outcome.error, RayActorError)
            if lost:
                actors[place] = self._pool.start()
                actors[place].begin.remote(*self._worker)
                losses[call] += 1
            idle.append(place)
            if lost and losses[call] < LOST:
                waiting.appendleft(call)
            else:
                yield outcome

    def close(self) -> None:
        if self._owns_pool:
            self._pool.close()

    def _put(self, federation: Federation) -> tuple[Any, Any, Any]:
        """Its sets apart, each once per node, and the rest."""
        rest = {field.name: getattr(federation, field.name) for field in fields(federation)}
        train, test = rest.pop("train"), rest.pop("test")
        return self._store.put(train), self._store.put(test), self._store.put(rest)

    def _choose(self, idle: Sequence[int], subject: Any) -> int:
        """The client's own actor if it is idle, else whichever has been idle longest."""
        home = (getattr(subject, "client", None) or 0) % len(self._pool.actors)
        return idle.index(home) if home in idle else 0


def _outcome(call: int, answer: Any, kept: Any) -> Answer | Failure:
    try:
        return Answer(call, ray.get(answer), kept)
    except RayActorError as error:
        return Failure(call, "unknown", error, str(error))
    except RayTaskError as error:
        text = str(error)  # Ray's, with the remote traceback
        node = re.search(r"ip=([^,)]+)", text)
        return Failure(call, node[1] if node else "unknown", error.cause, text)
