"""Clients in Ray actors: each pinned to its share of a GPU, or one per core."""

import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fedray.backends.base import Answer, Backend, Failure
from fedray.backends.pool import plan_pool
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

    def __init__(self, experiment: Experiment, federation: Federation, worker: type[Worker] = Worker) -> None:
        pool = plan_pool(experiment, len(federation.shards), ray.cluster_resources())  # type: ignore[no-untyped-call]
        actor = ray.remote(worker).options(num_cpus=pool.cpus_per_actor, num_gpus=experiment.resources.gpus_per_client)
        self._start_actor = partial(actor.remote, experiment, ray.put(federation))
        self._actors: list[Any] = [self._start_actor() for _ in range(pool.actors)]
        self._at_once = pool.at_once

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def fetch(self, handle: Any) -> Any:
        return ray.get(handle)

    def map(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Answer | Failure]:
        waiting = deque(range(len(calls)))
        losses: Counter[int] = Counter()
        idle = list(range(len(self._actors)))
        busy: dict[Any, tuple[int, int, Any]] = {}
        while waiting or busy:
            while waiting and idle and len(busy) < self._at_once:
                call = waiting.popleft()
                place = idle.pop(self._choose(idle, calls[call][0]))
                answer, kept = getattr(self._actors[place], method).options(num_returns=2).remote(*calls[call])
                busy[answer] = (call, place, kept)
            (answer,), _ = ray.wait(list(busy), num_returns=1)
            call, place, kept = busy.pop(answer)
            outcome = _outcome(call, answer, kept)
            lost = isinstance(outcome, Failure) and isinstance(outcome.error, RayActorError)
            if lost:
                self._actors[place] = self._start_actor()
                losses[call] += 1
            idle.append(place)
            if lost and losses[call] < LOST:
                waiting.appendleft(call)
            else:
                yield outcome

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def _choose(self, idle: Sequence[int], subject: Any) -> int:
        """The client's own actor if it is idle, else whichever has been idle longest."""
        home = getattr(subject, "client", 0) % len(self._actors)
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
