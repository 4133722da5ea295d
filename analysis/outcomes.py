"""Metrics of each run, from which tables, figures and findings are computed."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.text import part_of, shortened
from fedray.results.loader import last_k


def averaged_rounds(k: "pd.Series[int]") -> str:
    """Return the number of averaged rounds of all runs: `10`, or `2 to 10` if it differs between runs."""
    least, most = int(k.min()), int(k.max())
    return str(most) if least == most else f"{least} to {most}"


def comparable(named: pd.DataFrame, rounds: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return the runs that can be compared, their evaluated rounds, and sentences about runs that are left out.

    These are the finished runs; if there is none, all started runs up to their last common round. Of several runs with
    the same setting, condition and seed, the one with the most rounds is kept.
    """
    evaluated = rounds[rounds["test_accuracy"].notna()]
    done = evaluated.groupby("run", observed=True)["round"].max().reindex(named.index)
    repeated = _repeated(named, done)
    runs, done = named[~repeated], done[~repeated]
    notes = []
    if count := int(repeated.sum()):
        verb = part_of(count, len(named), "repeats", "repeat")
        names = shortened(list(named.index[repeated]))
        notes.append(f"{verb} the setting, condition and seed of another run (left out: {names}).")
    finished = runs.index[done >= runs["training.rounds"].astype(float)]
    if len(finished):
        if others := len(runs) - len(finished):
            verb = part_of(others, len(runs), "has", "have")
            notes.append(f"{verb} not reached the last round and {'is' if others == 1 else 'are'} left out.")
        return runs.loc[finished], _rounds_of(evaluated, finished), " ".join(notes)
    started = runs.index[done.notna()]
    if not len(started):
        return runs.loc[started], _rounds_of(evaluated, started), "No run has evaluated a round yet."
    common = int(done[started].min())
    notes.append(f"No run has reached its last round yet: {len(started)} started runs are compared at round {common}.")
    return runs.loc[started], _rounds_of(evaluated, started).query("round <= @common"), " ".join(notes)


def _repeated(named: pd.DataFrame, done: "pd.Series[int]") -> "pd.Series[bool]":
    """True for each run that has the labels and seed of a run with at least as many rounds."""
    furthest_first = named.loc[done.sort_values(ascending=False, kind="stable").index]
    return furthest_first.duplicated(["setting", "condition", "seed"]).reindex(named.index)


def outcomes(runs: pd.DataFrame, rounds: pd.DataFrame, last: int | None = None) -> pd.DataFrame:
    """Return `runs` with columns for the metrics of their evaluated `rounds`. Accuracies are fractions, 0 to 1.

    - `rounds_done`, `first`, `final`, `best`: the last round; the first, last and highest accuracy.
    - `k`: number of averaged rounds, `last` or by default `loader.last_k`; the next metrics use the last k rounds.
    - `last`, `swing`: mean and standard deviation of accuracy; `worst_class`, `rare_classes`: means.
    - `client_accuracy`, `client_std`, `worst_clients`: accuracy of the clients on their own test distributions: mean,
      standard deviation and mean of the worst tenth over clients.
    - `evaluated`: the models that were evaluated, `global` or `client`; empty for runs of earlier versions.
    - `cosine`, `drift`: mean agreement of client updates; `drift` is relative to the length of the mean update.
    - `gain`: accuracy in the last third of the rounds minus accuracy in the third before.
    """
    curves = rounds.groupby("run", observed=True)
    sizes = curves["round"].transform("size")
    k = sizes.map(lambda size: last or last_k(size))
    tail = rounds[curves.cumcount(ascending=False) < k].groupby("run", observed=True)
    metrics = pd.DataFrame(
        {
            "rounds_done": curves["round"].max(),
            "k": tail.size(),
            "first": curves["test_accuracy"].first(),
            "final": curves["test_accuracy"].last(),
            "best": curves["test_accuracy"].max(),
            "last": tail["test_accuracy"].mean(),
            "swing": tail["test_accuracy"].std(),
            "worst_class": tail["worst_class_accuracy"].mean(),
            "rare_classes": tail["rare_class_accuracy"].mean(),
            "client_accuracy": tail["client_accuracy"].mean(),
            "client_std": tail["client_accuracy_std"].mean(),
            "worst_clients": tail["client_accuracy_worst_tenth"].mean(),
            "evaluated": tail["evaluated_model"].last(),
            "cosine": tail["update_cosine"].mean(),
            "drift": tail["update_drift"].mean() / tail["update_norm"].mean(),
            "gain": curves["test_accuracy"].apply(_gain),
        }
    )
    return runs.join(metrics)


def spent(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return the costs of each run summed over its rounds: `seconds`, `bytes`, `teacher_flops` ...; NaN if unknown."""
    costs = rounds.assign(bytes=rounds["bytes_down"] + rounds["bytes_up"])
    columns = ["seconds", "bytes", "teacher_flops", "teacher_outputs_used", "failed_clients"]
    return costs.groupby("run", observed=True)[columns].sum(min_count=1)


def until(rounds: pd.DataFrame, last_rounds: "pd.Series[int]") -> pd.DataFrame:
    """Return the rounds of the runs in `last_rounds`, each up to the given round."""
    rows = rounds[rounds["run"].isin(last_rounds.index)]
    return rows[rows["round"] <= rows["run"].map(last_rounds).astype(int)]


def rounds_to(rounds: pd.DataFrame, targets: "pd.Series[float]") -> "pd.Series[float]":
    """Return the first evaluated round in which each run has its target accuracy; NaN if there is none."""
    wanted = rounds["run"].map(targets).astype(float)
    reached = rounds[rounds["test_accuracy"] >= wanted]
    return reached.groupby("run", observed=True)["round"].first().reindex(targets.index).astype(float)


def _gain(curve: "pd.Series[Any]") -> float:
    third = len(curve) // 3
    if third < 2:
        return float("nan")
    values = curve.to_numpy(dtype=float)
    return float(np.mean(values[-third:]) - np.mean(values[-2 * third : -third]))


def _rounds_of(rounds: pd.DataFrame, runs: "pd.Index[str]") -> pd.DataFrame:
    rows = rounds[rounds["run"].isin(runs)]
    return rows.assign(run=rows["run"].cat.remove_unused_categories() if len(rows) else rows["run"])
