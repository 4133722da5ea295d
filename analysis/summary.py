"""Tables of the metrics of many runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedray.config.labels import short_fields
from fedray.errors import SpecError
from fedray.results.loader import last_k, last_k_accuracy
from fedray.results.specs import varying_fields

if TYPE_CHECKING:
    from fedray.results.loader import Results

METRICS = ("test_accuracy", "last_k_accuracy", "worst_class_accuracy", "rare_class_accuracy")
CLIENT_METRICS = ("client_accuracy", "client_accuracy_worst_tenth")
"""Metrics that runs of earlier versions lack; they are columns of a table if a run has them."""


def summary(results: "Results", runs: Sequence[str] | None = None) -> pd.DataFrame:
    """Return one row per run: the spec fields that vary and the metrics of the last evaluated round.

    `runs` selects and orders the runs; by default all, by name. Accuracies are shares from 0 to 1. `last_k_accuracy`
    is the mean over the last `k` evaluated rounds, `difference` its difference to the first run's, and
    `round_seconds` the median over rounds.
    """
    table = _last_rounds(results.rounds)
    table = table.loc[[run for run in runs or results.folders if run in table.index]]
    fields = varying_fields(results.specs.loc[table.index], with_seed=True)
    table["round_seconds"] = results.rounds.groupby("run")["seconds"].median().round(2)
    difference = []
    if len(table) > 1:
        table["difference"] = table["last_k_accuracy"] - table["last_k_accuracy"].iloc[0]
        difference = ["difference"]
    columns = [*fields, "round", "test_accuracy", "last_k_accuracy", "k", *difference, *METRICS[2:], "round_seconds"]
    return table[columns].rename(columns=short_fields(fields)).reset_index(drop=bool(fields) or len(table) == 1)


def over_seeds(results: "Results") -> pd.DataFrame:
    """Return one row per setting: mean and standard deviation of each metric over the setting's seeds.

    Columns: the spec fields that vary, `seeds`, `round` (the last one that all seeds have evaluated, to which all
    metrics belong), `k` (evaluated rounds that `last_k_accuracy` averages), and for each of METRICS and
    `client_metrics` its mean and, as `METRIC_std`, its standard deviation (n - 1; NaN for one seed).
    """
    runs = _last_rounds(results.rounds)
    fields = varying_fields(results.specs.loc[runs.index])
    common = _by(fields, runs)["round"].transform("min")
    runs = _last_rounds(results.rounds[results.rounds["round"] <= results.rounds["run"].map(common)])
    groups = _by(fields, runs)
    table: pd.DataFrame = groups.agg(seeds=("round", "size"), round=("round", "min"), k=("k", "min"))
    for metric in (*METRICS, *client_metrics(results)):
        table[metric], table[f"{metric}_std"] = groups[metric].mean(), groups[metric].std()
    return table.reset_index(drop=not fields).rename(columns=short_fields(fields))


def client_metrics(results: "Results") -> list[str]:
    """Return the CLIENT_METRICS that a run has."""
    return [name for name in CLIENT_METRICS if results.rounds[name].notna().any()]


def _last_rounds(rounds: pd.DataFrame) -> pd.DataFrame:
    """The last evaluated round of each run, with `last_k_accuracy` and `k`; indexed by run. Raises SpecError."""
    evaluated = rounds.dropna(subset="test_accuracy")
    if evaluated.empty:
        raise SpecError("no run has an evaluated round yet: each rounds.csv has no row with a test accuracy.")
    last = evaluated.groupby("run").tail(1).set_index("run")
    curves = evaluated.groupby("run")["test_accuracy"]
    return last.assign(
        last_k_accuracy=curves.apply(lambda curve: last_k_accuracy(list(curve))), k=curves.size().map(last_k)
    )


def _by(fields: list[str], runs: pd.DataFrame) -> Any:
    """The runs grouped by setting."""
    return runs.groupby(fields, dropna=False, sort=True) if fields else runs.groupby(lambda _: 0)


def teacher_work(results: "Results", runs: Sequence[str]) -> str:
    """Return a line with the runs' used teacher outputs and computed forward passes; empty if none was used."""
    rounds = results.rounds[results.rounds["run"].isin(runs)]
    used, passes = (int(rounds[column].sum()) for column in ("teacher_outputs_used", "teacher_forward_passes"))
    if not used:
        return ""
    return f"teacher: {used:,} outputs used, {passes:,} forward passes computed, {1 - passes / used:.1%} saved"


def faults(results: "Results", runs: Sequence[str]) -> str:
    """Return a line with the number of faults that the runs recovered from, by kind; empty without any."""
    rows = results.faults[results.faults["run"].isin(runs)]
    counts = rows["fault"].value_counts()
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return f"recovered faults: {len(rows)} ({kinds})" if len(rows) else ""
