"""What a report is made from: the runs that may stand beside each other, and what is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import pandas as pd

from analysis.naming import name_runs
from analysis.outcomes import LAST, comparable, outcomes, spent, until
from analysis.records import Records
from analysis.tables import best_of_families

SHOWN = 10
"""Of long lists only so many are said aloud."""
STATES = {"begun": "begun and not ended", "waiting": "not begun"}


@dataclass(frozen=True)
class Material:
    """`named` are comparable runs with names and outcomes, `rounds` their evaluated rounds."""

    records: Records
    named: pd.DataFrame
    rounds: pd.DataFrame
    missing: list[str]  # sentences

    @classmethod
    def of(cls, records: Records, last: int = LAST) -> "Material":
        """Take the figures of the last so many evaluated rounds."""
        labelled = name_runs(records.runs, _taught(records))
        runs, rounds, left_out = comparable(labelled, records.rounds)
        named = outcomes(runs, rounds, last)
        named = named.join(spent(until(records.rounds, named["rounds_done"])))
        missing = [*filter(None, [left_out]), *_untold(records.trials), *_holes(labelled, named)]
        return cls(records, named, rounds, missing)

    def said(self) -> list[str]:
        """What a reader must know before trusting the rest: what is missing, and what could not be used."""
        problems = list(dict.fromkeys(self.records.problems))
        more = len(problems) - SHOWN
        rest = [f"{more} more rows or files cannot be used."] if more > 0 else []
        return [*self.missing, *problems[:SHOWN], *rest]

    @cached_property
    def best(self) -> pd.DataFrame:
        """The runs of each family's best setting: what figures with a line per family show."""
        return best_of_families(self.named)

    @cached_property
    def clients(self) -> pd.DataFrame:
        return self.records.clients(self.best.index, self.best["rounds_done"])

    @cached_property
    def classes(self) -> pd.DataFrame:
        return self.records.classes(self.best.index, self.best["rounds_done"])

    @cached_property
    def one_seed(self) -> pd.DataFrame:
        """A run per condition, all of the lowest seed: data are divided alike for every setting."""
        of_seed: pd.DataFrame = self.named[self.named["seed"] == self.named["seed"].min()]
        return of_seed.drop_duplicates("condition")

    @cached_property
    def partition(self) -> pd.DataFrame:
        return self.records.partition(self.best.index)


def _taught(records: Records) -> "pd.Series[bool]":
    """Which runs have asked their teacher; of those that do not say, the ones whose λ makes them ask."""
    asked = spent(records.rounds)["teacher_asked"].reindex(records.runs.index)
    weight = records.runs.get("strategy.lam", pd.Series(float("nan"), records.runs.index))
    return (asked > 0).where(asked.notna(), pd.to_numeric(weight, errors="coerce") > 0).astype(bool)


def _untold(trials: pd.DataFrame) -> Iterator[str]:
    """What sweeps say of trials that have not come to their end."""
    for state, own in trials[~trials["state"].isin(["finished", "stopped"])].groupby("state"):
        reasons = [f"{t}: {r}" for t, r in zip(own["trial"], own["reason"], strict=True) if r]
        why = f" ({_some(reasons, '; ')})" if reasons else ""
        yield f"{len(own)} of {len(trials)} trials {_have(list(own['trial']))} {STATES.get(str(state), state)}{why}."


def _holes(labelled: pd.DataFrame, named: pd.DataFrame) -> Iterator[str]:
    """Cells without a run, and cells that lack seeds which others have."""
    seeds, found = sorted(named["seed"].unique()), labelled.groupby(["setting", "condition"], observed=True)
    begun = {cell for cell, _ in found}
    cells = list(product(labelled["setting"].unique(), labelled["condition"].unique()))
    if empty := [f"{s} on {c}" for s, c in cells if (s, c) not in begun]:
        yield f"{len(empty)} of {len(cells)} cells {_have(empty)} no run ({_some(empty, '; ')})."
    lacking = {(s, c): [seed for seed in seeds if seed not in _seeds(named, s, c)] for s, c in begun}
    if holes := [f"{s} on {c}: {', '.join(map(str, lacking[s, c]))}" for s, c in cells if lacking.get((s, c))]:
        verb = "lacks" if len(holes) == 1 else "lack"
        yield f"{len(holes)} of {len(begun)} cells {verb} seeds that others have ({_some(holes, '; ')})."


def _have(some: list[str]) -> str:
    return "has" if len(some) == 1 else "have"


def _seeds(named: pd.DataFrame, setting: object, condition: object) -> set[int]:
    return set(named.loc[(named["setting"] == setting) & (named["condition"] == condition), "seed"])


def _some(parts: list[str], separator: str = ", ") -> str:
    more = len(parts) - SHOWN
    return separator.join(parts[:SHOWN]) + (f" and {more} more" if more > 0 else "")
