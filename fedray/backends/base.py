"""What a backend is: workers somewhere, and a way to spread calls over them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from fedray.aggregation import ExactMean
from fedray.checkpoint import WeightsFile
from fedray.data.federation import Federation
from fedray.types import Fault

Handle: TypeAlias = Any
"""A value that workers can read without it being sent again: itself, or a reference to it."""


@dataclass(frozen=True)
class Answer:
    """What a worker made for one call."""

    call: int  # its place among the calls
    value: Any
    weights: Handle = None  # one update, or the sum of several: stays where it was made, to be added up there
    kept: Handle = None  # likewise, until it is fetched or handed to a later call
    where: str = ""  # the node that has them


@dataclass(frozen=True)
class Failure:
    """What a worker's method raised for one call, or how the worker was lost."""

    call: int
    node: str
    error: BaseException
    traceback: str = ""


class LateError(TimeoutError):
    """The call was not done in time, and was given up."""


class Total(Protocol):
    """A sum of weights, which are added where they are."""

    def add(self, answer: Answer, weight: int) -> None:
        """Fold in what one call made."""

    def mean(self) -> ExactMean:
        """All that was added. Raises LostError where a part of it has gone with its node."""


class Backend(ABC):
    """Serial and Ray backends give the same bits; only where and when the work is done differs."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
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

    def share_lessons(self, lessons: dict[str, Any]) -> Handle:
        """As `share`, for arrays that other runs may have too."""
        return self.share(lessons)

    @abstractmethod
    def fetch(self, handle: Handle) -> Any:
        """The value behind a handle. Raises LostError where it has gone with its node."""

    @abstractmethod
    def map(
        self, method: str, calls: Sequence[tuple[Any, ...]], seconds: float | None = None
    ) -> Iterator[Answer | Failure]:
        """Call a method of `Worker` once for each tuple of arguments; yield as the calls finish.

        Arguments may be handles, or files of weights, which are read when the call begins. Calls are begun in their
        order, so put the longest first; where there are other processes, at once, though nobody looks at the outcomes
        yet. A call that is not done after `seconds` is given up: its failure is `LateError`. Raises LostError where
        what a handle speaks of is gone.
        """

    @abstractmethod
    def total(self) -> Total:
        """An empty sum of the weights that calls make."""

    @abstractmethod
    def ready(self) -> Iterator[str]:
        """Wait until every worker can be called, or some for long enough; yield now and then why it still waits."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go."""

    def collect(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The values of all calls, in the order of the calls. Raises what a call raised."""
        return in_order(self.map(method, calls))


def read(call: Sequence[Any]) -> list[Any]:
    """The arguments of a call that begins."""
    return [argument.read() if isinstance(argument, WeightsFile) else argument for argument in call]


def in_order(outcomes: Iterable[Answer | Failure]) -> list[Any]:
    """The values of calls, in the order of the calls. Raises what a call raised."""
    values: dict[int, Any] = {}
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error
        values[outcome.call] = outcome.value
    return [values[call] for call in sorted(values)]
