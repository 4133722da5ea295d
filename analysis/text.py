"""Words of sentences with numbers in them: lists, plurals, points."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10
"""Of long lists only so many are said aloud."""


def points(share: float, *, signed: bool = False) -> str:
    """`3.2` or `+3.2` of 0.032: accuracies are shares, people speak of points."""
    rounded = round(100 * share, 1) + 0.0  # which makes -0 a 0
    return f"{rounded:+.1f}" if signed else f"{rounded:.1f}"


def listed(parts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; `a, b; c, d; and e` where parts have commas of their own."""
    *first, last = parts = list(parts)
    if any(", " in part for part in parts) and len(parts) > 2:
        return f"{'; '.join(first)}; and {last}"
    return f"{', '.join(first)} and {last}" if first else last


def each(values: "pd.Series[Any]", unit: str = "", joint: str = "for") -> str:
    """`3.2 points for FedAvg and 2.9 for FML`: the unit is said once."""
    parts = [
        f"{value}{f' {unit}' if unit and not place else ''} {joint} {name}"
        for place, (name, value) in enumerate(values.items())
    ]
    return listed(parts)


def counted(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def some(parts: Sequence[str], separator: str = ", ") -> str:
    """The first of many."""
    more = len(parts) - SHOWN
    return separator.join(parts[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def part_of(number: int, of: int, singular: str, plural: str, nouns: str = "runs") -> str:
    """`1 of 4 runs repeats`, `2 of 4 cells lack`."""
    return f"{number} of {of} {nouns} {singular if number == 1 else plural}"
