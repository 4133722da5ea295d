"""All clients in this process, one after another: no Ray, for debugging, tests and Windows."""

import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from fedray.aggregation import ExactMean
from fedray.backends.base import Answer, Backend, Failure, LateError, read
from fedray.config import Experiment
from fedray.data.federation import Federation
from fedray.worker import Worker


class SerialBackend(Backend):
    """One worker. A handle is the value itself."""

    def __init__(self, experiment: Experiment, federation: Federation, worker: type[Worker] = Worker) -> None:
        super().__init__(federation)
        self._worker = worker(experiment, federation)

    @property
    def at_once(self) -> int:
        return 1

    def share(self, value: Any) -> Any:
        return value

    def fetch(self, handle: Any) -> Any:
        return handle

    def ready(self) -> Iterator[str]:
        return iter(())

    def map(
        self, method: str, calls: Sequence[tuple[Any, ...]], seconds: float | None = None
    ) -> Iterator[Answer | Failure]:
        """A call that has begun is waited for, however long it takes."""
        end = float("inf") if seconds is None else time.monotonic() + seconds
        for index, call in enumerate(calls):
            late = time.monotonic() > end
            yield (
                Failure(index, platform.node(), LateError("it was not begun in time"))
                if late
                else self._do(index, method, call)
            )

    def total(self) -> "LocalTotal":
        return LocalTotal()

    def close(self) -> None:
        pass

    def _do(self, index: int, method: str, call: tuple[Any, ...]) -> Answer | Failure:
        try:
            return Answer(index, *getattr(self._worker, method)(*read(call)))
        except Exception as error:  # whatever a client raises is reported with the client's name
            return Failure(index, platform.node(), error, traceback.format_exc())


class LocalTotal:
    """A sum of values that are here."""

    def __init__(self) -> None:
        self._mean = ExactMean()

    def add(self, answer: Answer, weight: int) -> None:
        self._mean.fold(answer.weights, weight)

    def mean(self) -> ExactMean:
        return self._mean
