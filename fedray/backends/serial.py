"""All clients in this process, one after another, without Ray: for debugging, tests and Windows."""

import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import TypeVar

from fedray.aggregation.messages import MessageSums
from fedray.backends.base import Backend, CallFailure, CallResult, LateError
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.workers.requests import LocalValue, R, Request
from fedray.workers.worker import Worker

T = TypeVar("T")


class SerialBackend(Backend):
    """A single worker in this process."""

    def __init__(self, experiment: Experiment, federated: FederatedDataset, worker: type[Worker] = Worker) -> None:
        super().__init__(federated)
        self._worker = worker(experiment, federated)

    @property
    def parallelism(self) -> int:
        return 1

    def share(self, value: T) -> LocalValue[T]:
        return LocalValue(value)

    def ready(self) -> Iterator[str]:
        return iter(())

    def run(
        self, requests: Sequence[Request[R]], timeout_s: float | None = None
    ) -> Iterator[CallResult[R] | CallFailure]:
        """Run one request after another. A request that has started is never interrupted."""
        end = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        for index, request in enumerate(requests):
            if time.monotonic() > end:
                yield CallFailure(index, platform.node(), LateError("it did not start before the deadline"))
                continue
            try:
                result = self._worker.handle(request)
            except Exception as error:  # the caller decides which errors end the run
                yield CallFailure(index, platform.node(), error, traceback.format_exc())
            else:
                yield CallResult(index, result.value, LocalValue(result.messages), LocalValue(result.client_state))

    def reducer(self) -> "LocalSum":
        return LocalSum()

    def close(self) -> None:
        pass


class LocalSum:
    """Sums of messages in this process."""

    def __init__(self) -> None:
        self._sums = MessageSums()

    def add(self, result: CallResult[object]) -> None:
        """Add the messages of one result."""
        messages = result.messages.get()
        assert messages is not None, "only results of training are added"
        self._sums.add(messages)

    def total(self) -> MessageSums:
        """Return the sums."""
        return self._sums
