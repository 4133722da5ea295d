"""All clients in this process, one after another: no Ray, for debugging, tests and Windows."""

import platform
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from fedray.backends.base import Answer, Backend, Failure
from fedray.config import Experiment
from fedray.data.federation import Federation
from fedray.worker import Worker


class SerialBackend(Backend):
    """One worker. A handle is the value itself."""

    def __init__(self, experiment: Experiment, federation: Federation, worker: type[Worker] = Worker) -> None:
        self._worker = worker(experiment, federation)

    def share(self, value: Any) -> Any:
        return value

    def fetch(self, handle: Any) -> Any:
        return handle

    def ready(self) -> None:
        pass

    def map(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Answer | Failure]:
        for index, call in enumerate(calls):
            try:
                value, kept = getattr(self._worker, method)(*call)
            except Exception as error:  # whatever a client raises is reported with the client's name
                yield Failure(index, platform.node(), error, traceback.format_exc())
            else:
                yield Answer(index, value, kept)

    def close(self) -> None:
        pass
