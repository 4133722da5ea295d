"""What came of each run: the figures that tables, figures and diagnosis are made of."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.text import part_of, some
from fedray.results.loader import last_k


def comparable(named: pd.DataFrame, rounds: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The named runs that may stand beside each other, their evaluated rounds, and what is left out, in sentences.

    Those that have come to their last round; where there is none, all, up to the last round that all have. Of runs
    of the same setting, condition and seed, which are the same run made twice, the one that has come furthest.
    """
    evaluated = rounds[rounds["test_accuracy"].notna()]
    done = evaluated.groupby("run", observed=True)["round"].max().reindex(named.index)
    furthest = named.loc[done.sort_values(ascending=False, kind="stable").index]
    again = furthest.duplicated(["setting", "condition", "seed"]).reindex(named.index)
    runs = named[~again]
    said = []
    if again.any():
        repeat = part_of(int(again.sum()), len(named), "repeats", "repeat")
        which = some(list(named.index[again]))
        said.append(f"{repeat} another of the same setting, condition and seed (left out: {which}).")
    done = done[runs.index]
    finished = runs.index[done >= runs["training.rounds"].astype(float)]
    if len(finished):
        if others := len(runs) - len(finished):
            left = part_of(others, len(runs), "has", "have")
            said.append(
                f"{left} not come to the last round and {'is' if others == 1 else 'are'} left out of the tables."
            )
        return runs.loc[finished], _of(evaluated, finished), " ".join(said)
    begun = runs.index[done.notna()]
    if not len(begun):
        return runs.loc[begun], _of(evaluated, begun), "No run has evaluated a round yet."
    common = int(done[begun].min())
    said.append(
        f"No run has come to its last round yet: the {len(begun)} that have begun are compared at round {common}."
    )
    return runs.loc[begun], _of(evaluated, begun).query("round <= @common"), " ".join(said)


def outcomes(runs: pd.DataFrame, rounds: pd.DataFrame, last: int | None = None) -> pd.DataFrame:
    """`runs` with a run's figures, of its evaluated `rounds`.

    `final`, `best` so far, `k` (number of last rounds that are averaged: `last`, or else by `loader.last_k`), `last`
    (mean of the last k), `swing` (their standard deviation), `worst_class` and `rare_classes` (means of the same
    rounds): shares. `cosine` and `drift` of the last rounds' client updates,
    the drift as a multiple of the mean update's length. `gain`: of the last third of the rounds over the third
    before. `seconds`, `bytes`, `teacher_flops`: of all rounds. `rounds_done`, `first`.
    """
    curves = rounds.groupby("run", observed=True)
    counts = curves.cumcount(ascending=False), curves["round"].transform("size")
    k = counts[1].map(lambda count: last or last_k(count))
    tail = rounds[counts[0] < k].groupby("run", observed=True)
    figures = pd.DataFrame(
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
            "cosine": tail["update_cosine"].mean(),
            "drift": tail["update_drift"].mean() / tail["update_norm"].mean(),
            "gain": curves["test_accuracy"].apply(_gain),
        }
    )
    return runs.join(figures)


def spent(rounds: pd.DataFrame) -> pd.DataFrame:
    """Returns sums over a run's rounds by run: `seconds`, `bytes`, `teacher_flops` and so on; NaN if unknown."""
    spending = rounds.assign(bytes=rounds["bytes_down"] + rounds["bytes_up"])
    columns = ["seconds", "bytes", "teacher_flops", "teacher_outputs_used", "failed_clients"]
    return spending.groupby("run", observed=True)[columns].sum(min_count=1)


def until(rounds: pd.DataFrame, last: "pd.Series[int]") -> pd.DataFrame:
    """The rounds of the runs in `last`, up to the one that it names."""
    own = rounds[rounds["run"].isin(last.index)]
    return own[own["round"] <= own["run"].map(last).astype(int)]


def rounds_to(rounds: pd.DataFrame, targets: "pd.Series[float]") -> "pd.Series[float]":
    """The first evaluated round in which a run is at least as accurate as its target; NaN where none is."""
    wanted = rounds["run"].map(targets).astype(float)
    reached = rounds[rounds["test_accuracy"] >= wanted]
    return reached.groupby("run", observed=True)["round"].first().reindex(targets.index).astype(float)


def _gain(curve: "pd.Series[Any]") -> float:
    third = len(curve) // 3
    if third < 2:
        return float("nan")
    values = curve.to_numpy(dtype=float)
    return float(np.mean(values[-third:]) - np.mean(values[-2 * third : -third]))


def _of(rounds: pd.DataFrame, runs: "pd.Index[str]") -> pd.DataFrame:
    kept = rounds[rounds["run"].isin(runs)]
    return kept.assign(run=kept["run"].cat.remove_unused_categories() if len(kept) else kept["run"])
