"""What a reader of an image source is asked for, and the guard around reading."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from fedray.errors import SpecError
from fedray.types import Indices

Side: TypeAlias = Literal["train", "test"]
Choose: TypeAlias = Callable[[Indices], Indices]
"""Maps all labels of a source to the positions to read; other images are not decoded."""


@dataclass(frozen=True)
class ReadRequest:
    """How to read one source."""

    side: Side
    choose: Choose = lambda labels: np.arange(len(labels))
    size: int | None = None
    """Pixels a side to which images are resized; None keeps their size."""
    image_column: str | None = None
    """Name of a table's image column; None looks for the usual names."""
    label_column: str | None = None
    """Name of a table's label column; None looks for the usual names."""

    @property
    def field(self) -> str:
        """The field of the spec that names the source."""
        return f"data.{self.side}"


@dataclass
class LeftOut:
    """Counts files and folders that a reader leaves out, by reason, with one example each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count files or folders that are left out."""
        if count:
            self.counts[reason] += count
            self.examples.setdefault(reason, example)

    def notes(self, field: str, source: str) -> tuple[str, ...]:
        """Returns one clause, such as `data.train left out of 'folder:a': dangling links: 5 (cat/0.png)`, or none."""
        parts = [f"{reason}: {count} ({self.examples[reason]})" for reason, count in self.counts.items()]
        return (f"{field} left out of '{source}': {', '.join(parts)}",) if parts else ()


@contextmanager
def reading(subject: str, failure: str = "cannot be read") -> Iterator[None]:
    """Turn any exception within the context into a SpecError: `subject` `failure` (cause).

    Decoders and readers of damaged files raise exceptions of every kind. A SpecError passes unchanged.
    """
    try:
        yield
    except SpecError:
        raise
    except Exception as error:
        raise SpecError(f"{subject} {failure} ({_cause(error)}).") from error


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().rstrip(".") or type(error).__name__
