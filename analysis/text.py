"""Parts of sentences with numbers: lists, plurals, percentage points."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MAX_ITEMS = 10
"""Maximum number of items of a list in a sentence."""


def points(fraction: float, *, signed: bool = False) -> str:
    """Return a fraction in percentage points: `3.2` or `+3.2` for 0.032."""
    rounded = round(100 * fraction, 1) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:+.1f}" if signed else f"{rounded:.1f}"


def listed(parts: Iterable[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`; `a, b; c, d; and e` if a part contains a comma."""
    *first, last = parts = list(parts)
    if any(", " in part for part in parts) and len(parts) > 2:
        return f"{'; '.join(first)}; and {last}"
    return f"{', '.join(first)} and {last}" if first else last


def with_labels(values: "pd.Series[Any]", unit: str = "", preposition: str = "for") -> str:
    """Return the values with their labels: `3.2 points for FedAvg and 2.9 for FML`."""
    parts = [
        f"{value}{f' {unit}' if unit and not index else ''} {preposition} {label}"
        for index, (label, value) in enumerate(values.items())
    ]
    return listed(parts)


def counted(number: int, noun: str) -> str:
    """Return `1 seed`, `3 seeds`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def shortened(parts: Sequence[str], separator: str = ", ") -> str:
    """Return the first items of a list, and the number of the others."""
    more = len(parts) - MAX_ITEMS
    return separator.join(parts[:MAX_ITEMS]) + (f" and {more} more" if more > 0 else "")


def part_of(number: int, total: int, singular: str, plural: str, nouns: str = "runs") -> str:
    """Return subject and verb: `1 of 4 runs repeats`, `2 of 4 cells lack`."""
    return f"{number} of {total} {nouns} {singular if number == 1 else plural}"
