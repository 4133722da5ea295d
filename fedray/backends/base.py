"""What a backend is: workers somewhere, and a way to spread calls over them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Handle: TypeAlias = Any
"""A value that workers can read without it being sent again: itself, or a reference to it."""


@dataclass(frozen=True)
class Answer:
    """What a worker's method returned for one call."""

    call: int  # its place among the calls
    value: Any
    kept: Handle  # stays where it was made, until it is fetched or handed to a later call


@dataclass(frozen=True)
class Failure:
    """What a worker's method raised for one call, or how the worker was lost."""

    call: int
    node: str
    error: BaseException
    traceback: str


class Backend(ABC):
    """Serial and Ray backends give the same bits; only where and when the work is done differs."""

    @abstractmethod
    def share(self, value: Any) -> Handle:
        """Put a value where every worker can read it; it crosses the network once per node."""

    def share_lessons(self, lessons: dict[str, Any]) -> Handle:
        """As `share`, for arrays that other runs may have too."""
        return self.share(lessons)

    @abstractmethod
    def fetch(self, handle: Handle) -> Any:
        """The value behind a handle."""

    @abstractmethod
    def map(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Answer | Failure]:
        """Call a method of `Worker` once for each tuple of arguments; yield as the calls finish.

        Arguments may be handles. Calls are begun in their order, so put the longest first.
        """

    @abstractmethod
    def ready(self) -> None:
        """Wait until every worker can be called."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go."""

    def collect(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The values of all calls, in the order of the calls. Raises what a call raised."""
        values: dict[int, Any] = {}
        for outcome in self.map(method, calls):
            if isinstance(outcome, Failure):
                raise outcome.error
            values[outcome.call] = outcome.value
        return [values[call] for call in range(len(calls))]
