"""The interface of a backend: a set of workers, and a way to spread requests over them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from fedray.aggregation.messages import MessageSums
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.types import ArrayGroups, Fault, TargetArrays
from fedray.workers.requests import ClientMessages, R, R_co, Request, Shared

T = TypeVar("T")


@dataclass(frozen=True)
class CallResult(Generic[R_co]):
    """A worker's result for one request. The messages stay on the worker's node until they are read."""

    index: int  # of the request
    value: R_co
    messages: Shared[ClientMessages | None]
    client_state: Shared[ArrayGroups | None]
    node: str = ""  # id of the worker's node


@dataclass(frozen=True)
class CallFailure:
    """The error that a worker raised for one request, or the loss of the worker."""

    index: int  # of the request
    node: str
    error: BaseException
    traceback: str = ""


class LateError(TimeoutError):
    """A request timed out."""


class Reducer(Protocol):
    """Weighted sums of the messages that requests return, added up on the nodes where they are."""

    def add(self, result: CallResult[object]) -> None:
        """Add the messages of one result."""

    def total(self) -> MessageSums:
        """Return the sums. Raises LostError where a part of them was lost with its node."""


class Backend(ABC):
    """Runs requests on workers. Every backend gives the same bits: only place and time of the work differ."""

    def __init__(self, federated: FederatedDataset) -> None:
        self.federated = federated
        """The data as the workers read it, so that the process needs no second copy of the images."""
        self.faults: list[Fault] = []
        """Faults that the backend recovered from; the driver clears the list after each round."""

    @property
    @abstractmethod
    def parallelism(self) -> int:
        """The number of requests that run at the same time."""

    @abstractmethod
    def share(self, value: T) -> Shared[T]:
        """Store a value where every worker can read it. It is sent once per node."""

    def share_targets(self, targets: TargetArrays) -> Shared[TargetArrays]:
        """Store targets as `share` does, reusing equal targets that another trial of the study has stored."""
        return self.share(targets)

    @abstractmethod
    def run(
        self, requests: Sequence[Request[R]], timeout_s: float | None = None
    ) -> Iterator[CallResult[R] | CallFailure]:
        """Run requests on the workers; yield the result or failure of each when it arrives.

        Requests start in their order, so put the longest first. On Ray they start at once, even if the results are
        not read yet. The files that a request names are read when it starts. A request that is unfinished after
        `timeout_s` fails with LateError. Raises LostError where a shared value was lost with its node.
        """

    @abstractmethod
    def reducer(self) -> Reducer:
        """Return an empty sum."""

    @abstractmethod
    def ready(self) -> Iterator[str]:
        """Wait until all workers have started, or some of them for long enough; yield messages about the wait."""

    @abstractmethod
    def close(self) -> None:
        """Release the workers."""

    def collect(self, requests: Sequence[Request[R]]) -> list[R]:
        """Run requests; return their values in the order of the requests. Raises the first error of a worker."""
        return values_in_order(self.run(requests))


MakeBackend: TypeAlias = Callable[[Experiment, FederatedDataset], Backend]
"""Makes the backend of an experiment."""


def values_in_order(results: Iterable[CallResult[R] | CallFailure]) -> list[R]:
    """Return the values of results in the order of their requests. Raises the error of the first failure."""
    values: dict[int, R] = {}
    for result in results:
        if isinstance(result, CallFailure):
            raise result.error
        values[result.index] = result.value
    return [values[index] for index in sorted(values)]
