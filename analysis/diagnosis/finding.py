"""A finding about a study."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.text import listed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Finding:
    """A sentence, its topic, and the runs from which its numbers are computed."""

    topic: str
    sentence: str
    is_warning: bool  # whether it calls for action or caution
    runs: tuple[str, ...]

    @classmethod
    def of(cls, topic: str, sentence: str, runs: Iterable[object], *, is_warning: bool = False) -> "Finding":
        """Return a finding about runs given by any labels."""
        return cls(topic, sentence, is_warning, tuple(map(str, runs)))


def shared_conditions(named: "pd.DataFrame") -> tuple["pd.DataFrame", str]:
    """Return the runs on conditions that every family has, and the words that name these conditions if some are left.

    Families are compared on equal conditions only.
    """
    families = named.groupby("condition", observed=True)["family"].nunique()
    shared = families.index[families == named["family"].nunique()]
    if len(shared) == len(families):
        return named, ""
    if not len(shared):
        return named, " (families without a common condition)"
    return named[named["condition"].isin(shared)], f" on {listed(map(str, shared))}"
