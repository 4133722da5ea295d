"""All clients in this process, one after another: no Ray, for debugging, tests and Windows."""

import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from fedray.aggregation.exact_mean import ExactMean
from fedray.backends.base import Backend, CallFailure, CallResult, LateError, load_arguments
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.workers.worker import Worker


class SerialBackend(Backend):
    """One worker. A handle is the value itself."""

    def __init__(self, experiment: Experiment, federated: FederatedDataset, worker: type[Worker] = Worker) -> None:
        super().__init__(federated)
        self._worker = worker(experiment, federated)

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
    ) -> Iterator[CallResult | CallFailure]:
        """A call that has begun is waited for, however long it takes."""
        end = float("inf") if seconds is None else time.monotonic() + seconds
        for index, call in enumerate(calls):
            late = time.monotonic() > end
            yield (
                CallFailure(index, platform.node(), LateError("it was not begun in time"))
                if late
                else self._do(index, method, call)
            )

    def total(self) -> "LocalSum":
        return LocalSum()

    def close(self) -> None:
        pass

    def _do(self, index: int, method: str, call: tuple[Any, ...]) -> CallResult | CallFailure:
        try:
            return CallResult(index, *getattr(self._worker, method)(*load_arguments(call)))
        except Exception as error:  # whatever a client raises is reported with the client's name
            return CallFailure(index, platform.node(), error, traceback.format_exc())


class LocalSum:
    """A sum of values that are here."""

    def __init__(self) -> None:
        self._mean = ExactMean()

    def add(self, answer: CallResult, weight: int) -> None:
        self._mean.fold(answer.weights, weight)

    def mean(self) -> ExactMean:
        return self._mean
