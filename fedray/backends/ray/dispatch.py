"""Calls spread over actors: each to whoever is idle, those of a lost actor again to another."""

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from fedray.backends.base import CallFailure, CallResult, LateError, load_arguments
from fedray.backends.ray.pool import MAX_CALL_ATTEMPTS, ActorPool, WorkerSlot, cluster_resources, first_line, node_names
from fedray.errors import LostError, RunError, SpecError
from fedray.types import Fault

WORKER_START_TIMEOUT_S = 600.0
"""Seconds to wait where not one actor can be started."""


@dataclass(frozen=True)
class InFlightCall:
    """A call that an actor is busy with."""

    call: int
    post: WorkerSlot
    weights: Any
    kept: Any


class Dispatch:
    """One `map` over the actors of a pool."""

    def __init__(
        self,
        pool: ActorPool,
        begin: Callable[[WorkerSlot], WorkerSlot],
        method: str,
        calls: Sequence[tuple[Any, ...]],
        seconds: float | None,
        faults: list[Fault],
    ) -> None:
        """`begin` gives an actor its worker; `faults` is added to."""
        self._pool, self._begin, self._method, self._calls, self._faults = pool, begin, method, calls, faults
        self._end = float("inf") if seconds is None else time.monotonic() + seconds
        self._waiting = deque(range(len(calls)))
        self._idle = [post for post in pool.posts if post.node]
        self._coming = {post.begun: post for post in pool.posts if not post.node}
        self._busy: dict[Any, InFlightCall] = {}
        self._losses: Counter[int] = Counter()
        self._lively = time.monotonic()
        self._give_out()

    def outcomes(self) -> Iterator[CallResult | CallFailure]:
        """One for each call, as they are done."""
        while self._waiting or self._busy:
            self._give_out()
            done = self._next()
            if done is None and time.monotonic() >= self._end:
                yield from self._give_up()
            elif done in self._coming:
                self._arrive(self._coming.pop(done))
            elif done is not None and (outcome := self._finish(done, self._busy.pop(done))) is not None:
                self._give_out()  # before whoever looks at this one takes its time
                yield outcome

    def _give_out(self) -> None:
        while self._waiting and self._idle and len(self._busy) < self._pool.at_once:
            call = self._waiting.popleft()
            post = self._idle.pop(self._choose(self._calls[call][0]))
            made = post.actor.call.options(num_returns=3).remote(self._method, *load_arguments(self._calls[call]))
            self._busy[made[0]] = InFlightCall(call, post, *made[1:])

    def _choose(self, subject: Any) -> int:
        """The client's own actor if it is idle, else whichever has been idle longest."""
        posts = self._pool.posts
        home = posts[next(iter(_clients(subject)), 0) % len(posts)]
        return self._idle.index(home) if home in self._idle else 0

    def _next(self) -> Any:
        """What is done next: an answer, or an actor that has come up. None after a while, or when time is up."""
        lock_timeout = max(0.0, min(5.0, self._end - time.monotonic()))
        done, _ = ray.wait([*self._busy, *self._coming], num_returns=1, timeout=lock_timeout)
        if done or self._busy:
            self._lively = time.monotonic()
        elif time.monotonic() - self._lively > WORKER_START_TIMEOUT_S:
            raise RunError(
                f"no worker could be started for {WORKER_START_TIMEOUT_S / 60:g} minutes: {free_resources()}."
            )
        return done[0] if done else None

    def _arrive(self, post: WorkerSlot) -> None:
        """A new actor's worker is there; or the actor was lost before."""
        try:
            wait_for_worker(post)
            self._idle.append(post)
        except RayActorError as error:
            self._replace(post, error)

    def _finish(self, answer: Any, errand: InFlightCall) -> CallResult | CallFailure | None:
        """What came of a call; None where it is to be made again."""
        try:
            value = ray.get(answer)
        except RayActorError as error:
            return self._again(errand, error)
        except ObjectLostError as error:
            raise LostError(str(error).partition("\n")[0]) from error
        except RayTaskError as error:
            self._idle.append(errand.post)
            if isinstance(error.cause, ObjectLostError):
                raise LostError(str(error.cause).partition("\n")[0]) from error
            return _failure(errand.call, error)
        errand.post.losses = 0
        self._idle.append(errand.post)
        return CallResult(errand.call, value, errand.weights, errand.kept, errand.post.node)

    def _again(self, errand: InFlightCall, error: RayActorError) -> CallFailure | None:
        """Make the call again, unless it is what kills its workers."""
        self._losses[errand.call] += 1
        what = "worker lost" if errand.post.node in node_names() else "node lost"
        self._replace(errand.post, error)
        self._look_after_the_idle()
        if self._losses[errand.call] == MAX_CALL_ATTEMPTS:
            return CallFailure(errand.call, errand.post.name, error, str(error))
        self._waiting.appendleft(errand.call)
        subject = _named(self._method, self._calls[errand.call][0])
        self._faults.append(Fault(what, subject, errand.post.name, "made again", first_line(error)))
        return None

    def _look_after_the_idle(self) -> None:
        """Others may be lost with the same node; a call should not have to find out."""
        asked = {post.actor.__ray_ready__.remote(): post for post in self._idle}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=1) if asked else ([], [])
        for answer in done:
            try:
                ray.get(answer)
            except RayActorError as error:
                self._idle.remove(asked[answer])
                self._replace(asked[answer], error)

    def _replace(self, post: WorkerSlot, error: Exception | None) -> None:
        new = self._begin(self._pool.replace(post, error))
        self._coming[new.begun] = new

    def _give_up(self) -> Iterator[CallFailure]:
        """Time is up: nobody waits for those who have not answered."""
        for errand in self._busy.values():
            self._replace(errand.post, None)
            yield CallFailure(errand.call, errand.post.name, LateError("it was not done in time"))
        for call in self._waiting:
            yield CallFailure(call, "none", LateError("it was not begun in time"))
        self._busy.clear()
        self._waiting.clear()


def wait_for_worker(post: WorkerSlot) -> None:
    """Note where an actor has come up. Raises RayActorError where it was lost, and what its worker raised."""
    try:
        post.node, post.name = ray.get(post.begun)
    except RayTaskError as error:
        if isinstance(error.cause, SpecError | RunError):
            raise error.cause from None
        raise RunError(f"a worker could not begin: {type(error.cause).__name__}: {error.cause}\n{error}") from None


def free_resources() -> str:
    """What the cluster has, and what of it nobody has taken."""
    have, free = cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    each = [
        f"{free.get(kind, 0):g} of {have[kind]:g} {name}" for kind, name in RESOURCE_NAMES.items() if have.get(kind)
    ]
    return f"the cluster has {' and '.join(each) or 'nothing'} free"


RESOURCE_NAMES = {"CPU": "cores", "GPU": "GPUs"}


def _failure(call: int, error: RayTaskError) -> CallFailure:
    text = str(error)  # Ray's, with the remote traceback
    node = re.search(r"ip=([^,)]+)", text)
    return CallFailure(call, node[1] if node else "unknown", error.cause, text)


def _named(method: str, subject: Any) -> str:
    """`client 3`, or `clients 3, 7 and 9`, for their training; `evaluate (0, 1000)` for the rest."""
    if method != "train_all":
        return f"{method} {subject}"
    *others, last = map(str, _clients(subject))
    return f"clients {', '.join(others)} and {last}" if others else f"client {last}"


def _clients(subject: Any) -> list[int]:
    """Whom a call is about, where it is about clients."""
    clients = (getattr(one, "client", None) for one in (subject if isinstance(subject, tuple) else (subject,)))
    return [client for client in clients if client is not None]
