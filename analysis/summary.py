"""Tables made from the results of many runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from fedray.results.loader import Results


def summary(results: "Results", runs: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per run: the fields with several values, and the figures of the last evaluated round.

    `runs` says which runs, in which order; without it all, by name. `difference` is of `last ten`, to the first run.

    Accuracies are shares from 0 to 1. `last ten` is the mean accuracy of the last ten evaluated
    rounds, which says more than the last where curves swing; `s/round` is the median over rounds.
    """
    evaluated = results.rounds.dropna(subset="accuracy")
    last = evaluated.groupby("run").tail(1).set_index("run")
    last = last.loc[[run for run in runs or results.folders if run in last.index]]
    seconds = results.rounds.groupby("run")["seconds"].median()
    varied = _telling(results, last)
    table = last[varied].rename(columns=_short_names(varied))
    table["round"] = last["round"]
    table["accuracy"] = last["accuracy"]
    table["last ten"] = evaluated.groupby("run")["accuracy"].apply(lambda curve: curve.tail(10).mean())
    if len(table) > 1:
        table["difference"] = table["last ten"] - table["last ten"].iloc[0]
    table["worst class"] = last["worst_class_accuracy"]
    table["rare classes"] = last["rare_class_accuracy"]
    table["s/round"] = seconds.reindex(table.index).round(2)
    return table.reset_index(drop=bool(varied) or len(table) == 1)


FIGURES = {
    "accuracy": "accuracy",
    "last ten": "last ten",
    "worst class": "worst_class_accuracy",
    "rare classes": "rare_class_accuracy",
}


def over_seeds(results: "Results") -> pd.DataFrame:
    """One row per setting: mean and standard deviation of each figure over its seeds, in the order of the settings.

    Columns: the fields with several values, `seeds`, `round` (the last that all have evaluated, to which all
    figures belong), and for each figure of `summary` its mean under its own name and its deviation (n - 1; NaN
    for one seed) as `... std`.
    """
    evaluated = results.rounds.dropna(subset="accuracy")
    runs = evaluated.groupby("run").tail(1).set_index("run")
    fields = [f for f in _telling(results, runs) if f != "seed"]
    common = _by(fields, runs)["round"].transform("min")
    evaluated = evaluated[evaluated["round"] <= evaluated["run"].map(common)]
    runs = evaluated.groupby("run").tail(1).set_index("run")
    runs["last ten"] = evaluated.groupby("run")["accuracy"].apply(lambda curve: curve.tail(10).mean())
    groups = _by(fields, runs)
    table: pd.DataFrame = groups.agg(seeds=("round", "size"), round=("round", "min"))
    for name, column in FIGURES.items():
        table[name], table[f"{name} std"] = groups[column].mean(), groups[column].std()
    return table.reset_index(drop=not fields).rename(columns=_short_names(fields))


def _by(fields: list[str], runs: pd.DataFrame) -> Any:
    """The runs of each setting."""
    return runs.groupby(fields, dropna=False, sort=True) if fields else runs.groupby(lambda _: 0)


def teacher_work(results: "Results", runs: Sequence[str]) -> str:
    """How many answers of teachers the runs used, and what was computed for them; empty where none was used."""
    rounds = results.rounds[results.rounds["run"].isin(runs)]
    used, made = (int(rounds[column].sum()) for column in ("teacher_asked", "teacher_passes"))
    if not used:
        return ""
    return f"teacher: {used:,} answers used, {made:,} forward passes made, {1 - made / used:.1%} saved"


def faults(results: "Results", runs: Sequence[str]) -> str:
    """How many faults the runs survived, by kind; empty where there was none."""
    of_runs = results.faults[results.faults["run"].isin(runs)]
    counts = of_runs["fault"].value_counts()
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return f"faults survived: {len(of_runs)} ({kinds})" if len(of_runs) else ""


def _telling(results: "Results", runs: pd.DataFrame) -> list[str]:
    """The fields with several values among these runs.

    One that some strategy has and another lacks tells them apart no better than their names.
    """
    return [
        field
        for field in results.varied.columns
        if runs[field].nunique() > 1 or (field in results.nullable and runs[field].isna().nunique() > 1)
    ]


def _short_names(fields: list[str]) -> dict[str, str]:
    """`strategy.lam` -> `lam`, `strategy.name` -> `strategy`; the whole name where two would clash."""
    short = {f: f.rsplit(".", 1)[0] if f.endswith((".name", ".kind")) else f.rsplit(".", 1)[-1] for f in fields}
    names = list(short.values())
    return {field: name if names.count(name) == 1 else field for field, name in short.items()}
