"""What a backend is: workers somewhere, and a way to spread calls over them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from fedray.aggregation.exact_mean import ExactMean
from fedray.data.federated import FederatedDataset
from fedray.models.weights import WeightsFile
from fedray.types import Fault

Handle: TypeAlias = Any
"""A value that workers can read without it being sent again: itself, or a reference to it."""


@dataclass(frozen=True)
class CallResult:
    """What a worker made for one call."""

    call: int  # its place among the calls
    value: Any
    weights: Handle = None  # one update, or the sum of several: stays where it was made, to be added up there
    kept: Handle = None  # likewise, until it is fetched or handed to a later call
    where: str = ""  # the node that has them


@dataclass(frozen=True)
class CallFailure:
    """What a worker's method raised for one call, or how the worker was lost."""

    call: int
    node: str
    error: BaseException
    traceback: str = ""


class LateError(TimeoutError):
    """The call was not done in time, and was given up."""


class Reducer(Protocol):
    """A sum of weights, which are added where they are."""

    def add(self, answer: CallResult, weight: int) -> None:
        """Fold in what one call made."""

    def mean(self) -> ExactMean:
        """All that was added. Raises LostError where a part of it has gone with its node."""


class Backend(ABC):
    """Serial and Ray backends give the same bits; only where and when the work is done differs."""

    def __init__(self, federated: FederatedDataset) -> None:
        self.federated = federated
        """As its workers read it: nobody needs another copy of the images."""
        self.faults: list[Fault] = []
        """What went wrong and was made good, since somebody last looked and cleared it."""

    @property
    @abstractmethod
    def at_once(self) -> int:
        """How many calls are made at a time."""

    @abstractmethod
    def share(self, value: Any) -> Handle:
        """Put a value where every worker can read it; it crosses the network once per node."""

    def share_targets(self, targets: dict[str, Any]) -> Handle:
        """As `share`, for arrays that other runs may have too."""
        return self.share(targets)

    @abstractmethod
    def fetch(self, handle: Handle) -> Any:
        """The value behind a handle. Raises LostError where it has gone with its node."""

    @abstractmethod
    def map(
        self, method: str, calls: Sequence[tuple[Any, ...]], seconds: float | None = None
    ) -> Iterator[CallResult | CallFailure]:
        """Call a method of `Worker` once for each tuple of arguments; yield as the calls finish.

        Arguments may be handles, or files of weights, which are read when the call begins. Calls are begun in their
        order, so put the longest first; where there are other processes, at once, though nobody looks at the outcomes
        yet. A call that is not done after `seconds` is given up: its failure is `LateError`. Raises LostError where
        what a handle speaks of is gone.
        """

    @abstractmethod
    def total(self) -> Reducer:
        """An empty sum of the weights that calls make."""

    @abstractmethod
    def ready(self) -> Iterator[str]:
        """Wait until every worker can be called, or some for long enough; yield now and then why it still waits."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go."""

    def collect(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The values of all calls, in the order of the calls. Raises what a call raised."""
        return values_in_order(self.map(method, calls))


def load_arguments(call: Sequence[Any]) -> list[Any]:
    """The arguments of a call that begins."""
    return [argument.read() if isinstance(argument, WeightsFile) else argument for argument in call]


def values_in_order(outcomes: Iterable[CallResult | CallFailure]) -> list[Any]:
    """The values of calls, in the order of the calls. Raises what a call raised."""
    values: dict[int, Any] = {}
    for outcome in outcomes:
        if isinstance(outcome, CallFailure):
            raise outcome.error
        values[outcome.call] = outcome.value
    return [values[call] for call in sorted(values)]
