"""Input of a report: the comparable runs, and notes about missing data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import pandas as pd

from analysis.distillation import teacher_weight
from analysis.labels import name_runs
from analysis.outcomes import averaged_rounds, comparable, outcomes, spent, until
from analysis.records import Records
from analysis.tables import best_of_families
from analysis.text import MAX_ITEMS, part_of, shortened

MAX_MISSING_ROUNDS = 0.1
"""A run that lacks more than this fraction of its rounds is left out."""
UNFINISHED_STATES = {"started": "started but not finished", "pending": "not started"}


@dataclass(frozen=True)
class ReportData:
    """`named`: comparable runs with labels and metrics; `rounds`: their evaluated rounds; `missing`: sentences."""

    records: Records
    named: pd.DataFrame
    rounds: pd.DataFrame
    missing: list[str]

    @classmethod
    def of(cls, records: Records, last: int | None = None) -> "ReportData":
        """Return the data of a report whose metrics are means over the last `last` (by default k) evaluated rounds."""
        complete, incomplete = _complete_runs(records)
        labelled = name_runs(complete, _uses_teacher(records)[complete.index])
        runs, rounds, left_out = comparable(labelled, records.rounds)
        named = outcomes(runs, rounds, last)
        named = named.join(spent(until(records.rounds, named["rounds_done"])))
        trials, cells = _unfinished_trials(records.trials), _missing_cells(labelled, named)
        return cls(records, named, rounds, [*incomplete, *filter(None, [left_out]), *trials, *cells])

    def notes(self) -> list[str]:
        """Return sentences about missing and unusable data, shown before everything else."""
        problems = self.problems
        more = len(problems) - MAX_ITEMS
        rest = [f"{more} more problems are listed in problems.txt."] if more > 0 else []
        return [*self.missing, *problems[:MAX_ITEMS], *rest]

    @property
    def k(self) -> str:
        """Number of averaged rounds: `10`, or `2 to 10` if it differs between runs."""
        return averaged_rounds(self.named["k"])

    @property
    def problems(self) -> list[str]:
        """Problems of the files: unreadable files first, then files with invalid rows."""
        return sorted(dict.fromkeys(self.records.problems), key=lambda problem: "rows are left out" in problem)

    @cached_property
    def best(self) -> pd.DataFrame:
        """The runs of each family's best setting, for figures with one line per family."""
        return best_of_families(self.named)

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row per client in the last round of the runs in `best`."""
        return self.records.clients(self.best.index, self.best["rounds_done"])

    @cached_property
    def classes(self) -> pd.DataFrame:
        """One row per class in the last evaluated round of the runs in `best`."""
        return self.records.classes(self.best.index, self.best["rounds_done"])

    @cached_property
    def one_seed(self) -> pd.DataFrame:
        """One run per condition, all with the lowest seed: every setting has the same partition for one seed."""
        runs: pd.DataFrame = self.named[self.named["seed"] == self.named["seed"].min()]
        return runs.drop_duplicates("condition")

    @cached_property
    def partition(self) -> pd.DataFrame:
        """One row per client and class of the runs in `best`."""
        return self.records.partition(self.best.index)


def _uses_teacher(records: Records) -> "pd.Series[bool]":
    """True for each run that used teacher outputs; if that is unknown, for each run whose λ is above 0."""
    used = spent(records.rounds)["teacher_outputs_used"].reindex(records.runs.index)
    return (used > 0).where(used.notna(), teacher_weight(records.runs) > 0).astype(bool)


def _complete_runs(records: Records) -> tuple[pd.DataFrame, list[str]]:
    """The runs with nearly all of their rounds, and sentences about runs that lack rounds."""
    rounds = records.rounds.groupby("run", observed=True)["round"]
    lacking = {
        str(run): (int(numbers.max()) - len(numbers), int(numbers.max()))
        for run, numbers in rounds
        if numbers.max() > len(numbers)
    }
    incomplete = [run for run, (count, total) in lacking.items() if count > MAX_MISSING_ROUNDS * total]
    others = [run for run in lacking if run not in incomplete]
    are = "is" if len(incomplete) == 1 else "are"
    notes = [
        *_lacking_rounds(
            records, incomplete, lacking, f"more than {MAX_MISSING_ROUNDS:.0%} of the rounds and {are} left out"
        ),
        *_lacking_rounds(records, others, lacking, "rounds, so means and costs use the remaining ones"),
    ]
    return records.runs.drop(index=incomplete), notes


def _lacking_rounds(
    records: Records, runs: list[str], lacking: Mapping[str, tuple[int, int]], rest: str
) -> Iterator[str]:
    if runs:
        counts = shortened([f"{run}: {lacking[run][0]} of {lacking[run][1]}" for run in runs])
        yield f"{part_of(len(runs), len(records.runs), 'lacks', 'lack')} {rest} ({counts})."


def _unfinished_trials(trials: pd.DataFrame) -> Iterator[str]:
    """Sentences about trials that have not finished."""
    studies = trials["study"].nunique()
    for name, rows in trials[~trials["state"].isin(["finished", "stopped"])].groupby(["study", "state"]):
        study, state = map(str, name)
        reasons = [f"{trial}: {why}" for trial, why in zip(rows["trial"], rows["reason"], strict=True) if why]
        details = f" ({shortened(reasons, '; ')})" if reasons else ""
        nouns = f"trials of {study}" if studies > 1 else "trials"
        subject = part_of(len(rows), (trials["study"] == study).sum(), "has", "have", nouns)
        yield f"{subject} {UNFINISHED_STATES.get(state, state)}{details}."


def _missing_cells(labelled: pd.DataFrame, named: pd.DataFrame) -> Iterator[str]:
    """Sentences about cells without a run and about cells that lack seeds of other cells."""
    seeds, groups = sorted(named["seed"].unique()), labelled.groupby(["setting", "condition"], observed=True)
    started = {cell for cell, _ in groups}
    cells = list(product(labelled["setting"].unique(), labelled["condition"].unique()))
    if empty := [f"{setting} on {condition}" for setting, condition in cells if (setting, condition) not in started]:
        yield f"{part_of(len(empty), len(cells), 'has', 'have', 'cells')} no run ({shortened(empty, '; ')})."
    lacking = {cell: [seed for seed in seeds if seed not in _seeds(named, *cell)] for cell in started}
    incomplete = [cell for cell in cells if lacking.get(cell)]
    if incomplete:
        subject = part_of(len(incomplete), len(started), "lacks", "lack", "cells")
        details = [f"{cell[0]} on {cell[1]}: {', '.join(map(str, lacking[cell]))}" for cell in incomplete]
        yield f"{subject} seeds that other cells have ({shortened(details, '; ')})."


def _seeds(named: pd.DataFrame, setting: object, condition: object) -> set[int]:
    return set(named.loc[(named["setting"] == setting) & (named["condition"] == condition), "seed"])
