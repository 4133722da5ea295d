"""What a report is made from: the runs that may stand beside each other, and what is missing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import pandas as pd

from analysis.labels import name_runs
from analysis.outcomes import comparable, outcomes, spent, until
from analysis.records import Records
from analysis.tables import best_of_families
from analysis.text import SHOWN, part_of, some

TORN = 0.1
"""A run that lacks a larger share of its rounds is not what it was."""
STATES = {"started": "started and not finished", "pending": "not started"}


@dataclass(frozen=True)
class ReportData:
    """`named` are comparable runs with names and outcomes, `rounds` their evaluated rounds."""

    records: Records
    named: pd.DataFrame
    rounds: pd.DataFrame
    missing: list[str]  # sentences

    @classmethod
    def of(cls, records: Records, last: int | None = None) -> "ReportData":
        """Take the figures of the last so many evaluated rounds."""
        whole, torn = _whole(records)
        labelled = name_runs(whole, _targets(records)[whole.index])
        runs, rounds, left_out = comparable(labelled, records.rounds)
        named = outcomes(runs, rounds, last)
        named = named.join(spent(until(records.rounds, named["rounds_done"])))
        missing = [*torn, *filter(None, [left_out]), *_untold(records.trials), *_holes(labelled, named)]
        return cls(records, named, rounds, missing)

    def said(self) -> list[str]:
        """What a reader must know before trusting the rest: what is missing, and what could not be used."""
        problems = self.problems
        more = len(problems) - SHOWN
        rest = [f"{more} more rows or files cannot be used; problems.txt has them all."] if more > 0 else []
        return [*self.missing, *problems[:SHOWN], *rest]

    @property
    def problems(self) -> list[str]:
        """What could not be used, whole files first."""
        return sorted(dict.fromkeys(self.records.problems), key=lambda problem: "rows are left out" in problem)

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


def _targets(records: Records) -> "pd.Series[bool]":
    """Which runs have asked their teacher; of those that do not say, the ones whose λ makes them ask."""
    asked = spent(records.rounds)["teacher_outputs_used"].reindex(records.runs.index)
    weight = records.runs.get("strategy.lam", pd.Series(float("nan"), records.runs.index))
    return (asked > 0).where(asked.notna(), pd.to_numeric(weight, errors="coerce") > 0).astype(bool)


def _whole(records: Records) -> tuple[pd.DataFrame, list[str]]:
    """The runs whose rounds are all there, or nearly; and what is said of others."""
    rounds = records.rounds.groupby("run", observed=True)["round"]
    lacking = {str(run): (int(own.max()) - len(own), int(own.max())) for run, own in rounds if own.max() > len(own)}
    torn = [run for run, (count, of) in lacking.items() if count > TORN * of]
    rest = [run for run in lacking if run not in torn]
    are = "is" if len(torn) == 1 else "are"
    said = [
        *_lacking(records, torn, lacking, f"more than {TORN:.0%} of the rounds and {are} left out"),
        *_lacking(records, rest, lacking, "rounds: means and costs are of the rest"),
    ]
    return records.runs.drop(index=torn), said


def _lacking(records: Records, runs: list[str], lacking: Mapping[str, tuple[int, int]], what: str) -> Iterator[str]:
    if runs:
        each = some([f"{run} {lacking[run][0]} of {lacking[run][1]}" for run in runs])
        yield f"{part_of(len(runs), len(records.runs), 'lacks', 'lack')} {what} ({each})."


def _untold(trials: pd.DataFrame) -> Iterator[str]:
    """What sweeps say of trials that have not come to their end."""
    studies = trials["study"].nunique()
    for name, own in trials[~trials["state"].isin(["finished", "stopped"])].groupby(["study", "state"]):
        study, state = map(str, name)
        reasons = [f"{t}: {r}" for t, r in zip(own["trial"], own["reason"], strict=True) if r]
        why = f" ({some(reasons, '; ')})" if reasons else ""
        nouns = f"trials of {study}" if studies > 1 else "trials"
        have = part_of(len(own), (trials["study"] == study).sum(), "has", "have", nouns)
        yield f"{have} {STATES.get(state, state)}{why}."


def _holes(labelled: pd.DataFrame, named: pd.DataFrame) -> Iterator[str]:
    """Cells without a run, and cells that lack seeds which others have."""
    seeds, found = sorted(named["seed"].unique()), labelled.groupby(["setting", "condition"], observed=True)
    begun = {cell for cell, _ in found}
    cells = list(product(labelled["setting"].unique(), labelled["condition"].unique()))
    if empty := [f"{s} on {c}" for s, c in cells if (s, c) not in begun]:
        yield f"{part_of(len(empty), len(cells), 'has', 'have', 'cells')} no run ({some(empty, '; ')})."
    lacking = {(s, c): [seed for seed in seeds if seed not in _seeds(named, s, c)] for s, c in begun}
    if holes := [f"{s} on {c}: {', '.join(map(str, lacking[s, c]))}" for s, c in cells if lacking.get((s, c))]:
        lack = part_of(len(holes), len(begun), "lacks", "lack", "cells")
        yield f"{lack} seeds that others have ({some(holes, '; ')})."


def _seeds(named: pd.DataFrame, setting: object, condition: object) -> set[int]:
    return set(named.loc[(named["setting"] == setting) & (named["condition"] == condition), "seed"])
