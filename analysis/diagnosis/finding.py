"""One thing that the tables say, as a sentence with its numbers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.text import listed

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
