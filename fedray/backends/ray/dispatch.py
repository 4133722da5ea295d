"""Spreads requests over actors: each goes to an idle actor, and is retried on another if its actor is lost."""

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from fedray.backends.base import CallFailure, CallResult, LateError
from fedray.backends.ray.nodes import cluster_resources, node_names
from fedray.backends.ray.pool import MAX_CALL_ATTEMPTS, ActorPool, WorkerSlot
from fedray.backends.ray.references import RayShared, first_line, lost_error
from fedray.errors import LostError, RunError, SpecError
from fedray.types import ArrayGroups, Fault
from fedray.workers.requests import ClientMessages, R, Request

NO_WORKER_TIMEOUT_S = 600.0
"""Seconds after which a run without any worker ends."""

WAIT_S = 5.0
"""Seconds of one wait for the next event, after which the timeouts are checked."""


@dataclass(frozen=True)
class InFlightCall:
    """A request that an actor is working on."""

    index: int  # of the request
    slot: WorkerSlot
    messages: "ray.ObjectRef[ClientMessages | None]"
    client_state: "ray.ObjectRef[ArrayGroups | None]"


class Dispatch(Generic[R]):
    """The requests of one `Backend.run` on the actors of a pool."""

    def __init__(
        self,
        pool: ActorPool,
        start_worker: Callable[[WorkerSlot], WorkerSlot],
        requests: Sequence[Request[R]],
        timeout_s: float | None,
        faults: list[Fault],
    ) -> None:
        """Send requests to all idle actors. Faults that are recovered from are appended to `faults`."""
        self._pool, self._start_worker, self._requests, self._faults = pool, start_worker, requests, faults
        self._end = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        self._waiting = deque(range(len(requests)))
        self._idle = [slot for slot in pool.slots if slot.node]
        self._starting = {slot.starting: slot for slot in pool.slots if not slot.node}
        self._in_flight: dict[ray.ObjectRef[R], InFlightCall] = {}
        self._losses: Counter[int] = Counter()
        self._last_active = time.monotonic()
        self._submit()

    def results(self) -> Iterator[CallResult[R] | CallFailure]:
        """Yield a result or failure of each request, in the order in which they arrive."""
        while self._waiting or self._in_flight:
            self._submit()
            ready = self._wait()
            if ready is None and time.monotonic() >= self._end:
                yield from self._time_out()
            elif ready in self._starting:
                self._add_worker(self._starting.pop(ready))
            elif ready is not None and (result := self._finish(ready, self._in_flight.pop(ready))) is not None:
                self._submit()  # so that actors work while the caller handles this result
                yield result

    def _submit(self) -> None:
        """Send waiting requests to idle actors."""
        while self._waiting and self._idle and len(self._in_flight) < self._pool.parallelism:
            index = self._waiting.popleft()
            request = self._requests[index].with_files_read()
            slot = self._idle.pop(self._choose(request))
            value, messages, state = slot.actor.handle.options(num_returns=3).remote(request)
            self._in_flight[value] = InFlightCall(index, slot, messages, state)

    def _choose(self, request: Request[R]) -> int:
        """The index of the request's preferred slot among idle slots, or of the slot that has been idle longest."""
        preferred = self._pool.slots[request.preferred_slot % len(self._pool.slots)]
        return self._idle.index(preferred) if preferred in self._idle else 0

    def _wait(self) -> "ray.ObjectRef[Any] | None":
        """Wait for a result or for the start of a worker; return its reference, or None after a while.

        Raises RunError where there has been no worker for NO_WORKER_TIMEOUT_S.
        """
        timeout_s = max(0.0, min(WAIT_S, self._end - time.monotonic()))
        ready, _ = ray.wait([*self._in_flight, *self._starting], num_returns=1, timeout=timeout_s)
        if ready or self._in_flight:
            self._last_active = time.monotonic()
        elif time.monotonic() - self._last_active > NO_WORKER_TIMEOUT_S:
            raise RunError(f"no worker started within {NO_WORKER_TIMEOUT_S / 60:g} minutes: {free_resources()}.")
        return ready[0] if ready else None

    def _add_worker(self, slot: WorkerSlot) -> None:
        """Make the slot of a worker that has started idle; replace it if its actor was lost."""
        try:
            wait_for_worker(slot)
            self._idle.append(slot)
        except RayActorError as error:
            self._replace(slot, error)

    def _finish(self, reference: "ray.ObjectRef[R]", call: InFlightCall) -> CallResult[R] | CallFailure | None:
        """Return the result or failure of a request; None if it is retried. Raises LostError."""
        try:
            value = ray.get(reference)
        except RayActorError as error:
            return self._retry(call, error)
        except ObjectLostError as error:
            raise LostError(first_line(error)) from error
        except RayTaskError as error:
            self._idle.append(call.slot)
            if lost := lost_error(error):
                raise lost from error
            return _failure(call.index, error)
        call.slot.losses = 0
        self._idle.append(call.slot)
        return CallResult(call.index, value, RayShared(call.messages), RayShared(call.client_state), call.slot.node)

    def _retry(self, call: InFlightCall, error: RayActorError) -> CallFailure | None:
        """Queue a request again whose actor was lost; return a failure after MAX_CALL_ATTEMPTS losses."""
        self._losses[call.index] += 1
        fault = "worker lost" if call.slot.node in node_names() else "node lost"
        self._replace(call.slot, error)
        self._replace_lost_idle_actors()
        if self._losses[call.index] == MAX_CALL_ATTEMPTS:
            return CallFailure(call.index, call.slot.node_name, error, str(error))
        self._waiting.appendleft(call.index)
        subject = self._requests[call.index].subject
        self._faults.append(Fault(fault, subject, call.slot.node_name, "retried", first_line(error)))
        return None

    def _replace_lost_idle_actors(self) -> None:
        """Replace idle actors that were lost with the same node, before a request is sent to them."""
        pings = {slot.actor.__ray_ready__.remote(): slot for slot in self._idle}
        ready, _ = ray.wait(list(pings), num_returns=len(pings), timeout=1) if pings else ([], [])
        for reference in ready:
            try:
                ray.get(reference)
            except RayActorError as error:
                self._idle.remove(pings[reference])
                self._replace(pings[reference], error)

    def _replace(self, slot: WorkerSlot, error: Exception | None) -> None:
        new = self._start_worker(self._pool.replace(slot, error))
        self._starting[new.starting] = new

    def _time_out(self) -> Iterator[CallFailure]:
        """Fail all unfinished requests with LateError, and replace the actors that work on them."""
        for call in self._in_flight.values():
            self._replace(call.slot, None)
            yield CallFailure(call.index, call.slot.node_name, LateError("it did not finish before the deadline"))
        for index in self._waiting:
            yield CallFailure(index, "none", LateError("it did not start before the deadline"))
        self._in_flight.clear()
        self._waiting.clear()


def wait_for_worker(slot: WorkerSlot) -> None:
    """Record the node of a worker that has started.

    Raises RayActorError where its actor was lost, SpecError or RunError where the worker could not be created.
    """
    try:
        slot.node, slot.node_name = ray.get(slot.starting)
    except RayTaskError as error:
        if isinstance(error.cause, SpecError | RunError):
            raise error.cause from None
        raise RunError(f"a worker could not start: {type(error.cause).__name__}: {error.cause}\n{error}") from None


RESOURCE_NAMES = {"CPU": "cores", "GPU": "GPUs"}


def free_resources() -> str:
    """Return a clause about the cluster: `the cluster has 2 of 8 cores free`."""
    total, free = cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    parts = [
        f"{free.get(kind, 0):g} of {total[kind]:g} {name}" for kind, name in RESOURCE_NAMES.items() if total.get(kind)
    ]
    return f"the cluster has {' and '.join(parts) or 'nothing'} free"


def _failure(index: int, error: RayTaskError) -> CallFailure:
    text = str(error)  # with the remote traceback
    node = re.search(r"ip=([^,)]+)", text)
    return CallFailure(index, node[1] if node else "unknown", error.cause, text)
