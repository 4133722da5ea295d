"""One thing that the tables say, as a sentence with its numbers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Finding:
    """A sentence, what it is about, and the runs that its numbers come from."""

    about: str
    sentence: str
    warns: bool  # whether something should be done, or nothing concluded, before it is dealt with
    runs: tuple[str, ...]

    @classmethod
    def of(cls, about: str, sentence: str, runs: Iterable[object], *, warns: bool = False) -> "Finding":
        return cls(about, sentence, warns, tuple(map(str, runs)))


def alike(named: "pd.DataFrame") -> tuple["pd.DataFrame", str]:
    """The runs on conditions that every family has, for families are compared on the same; and on which, if not all."""
    families = named.groupby("condition", observed=True)["family"].nunique()
    shared = families.index[families == named["family"].nunique()]
    if len(shared) == len(families):
        return named, ""
    if not len(shared):
        return named, " (families on conditions of their own)"
    return named[named["condition"].isin(shared)], f" on {listed(map(str, shared))}"


def points(share: float, *, signed: bool = False) -> str:
    """`3.2` or `+3.2` of 0.032: accuracies are shares, people speak of points."""
    return f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"


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
