"""Checks of the teacher's accuracy and of the weight of distillation."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.diagnosis.finding import Finding
from analysis.distillation import base_algorithm, teacher_weight
from analysis.text import listed, points

BALANCES = ("strategy.balance", "strategy.distillation.balance")
MIN_LEAD = 0.01
"""A smaller lead of the best λ may be due to chance."""


def teacher_accuracy(named: pd.DataFrame) -> Iterator[Finding]:
    """Yield each teacher's accuracy on the clients' examples, compared with the best proxies distilled from it."""
    distilled = named[(named["teacher_name"] != "") & named["teacher_accuracy"].notna()]
    for teacher, runs in distilled.groupby("teacher_name"):
        by_condition = runs.astype({"teacher_accuracy": float}).groupby("condition", observed=True)
        accuracy = by_condition["teacher_accuracy"].mean()
        means = runs.groupby(["condition", "setting"], observed=True)["last"].mean()
        proxy = means.groupby("condition", observed=True).max()
        worse, nearest = accuracy.index[accuracy < proxy], str((accuracy - proxy).idxmin())
        where = f" ({nearest})" if len(accuracy) > 1 else ""
        verdict = (
            f"is less accurate than proxies distilled from it (on {listed(map(str, worse))}) and may limit them"
            if len(worse)
            else "is more accurate than every proxy distilled from it"
        )
        sentence = (
            f"{teacher} {verdict}: its accuracy is {points(accuracy.loc[nearest])} % on the clients' training "
            f"examples, that of the best proxy{where} is {points(proxy.loc[nearest])} % on the test set."
        )
        yield Finding.of("Teacher", sentence, runs.index, is_warning=bool(len(worse)))


def best_lambda(named: pd.DataFrame) -> Iterator[Finding]:
    """Yield each teacher's best λ, and whether it is the smallest or largest value tried.

    λ = 0 is the algorithm without the teacher: FedAvg for Fed-LPFM.
    """
    lams = teacher_weight(named)
    distilled = named[lams.notna() & (named["teacher_name"] != "")]
    pairs = sorted(set(zip(distilled["teacher_name"], distilled["algorithm"], strict=True)))
    for teacher, algorithm in pairs:
        base = lams.where(named["algorithm"] != base_algorithm(algorithm), 0.0)
        is_of_pair = (named["algorithm"] == algorithm) & named["teacher_name"].isin([teacher, ""])  # λ = 0: no teacher
        is_base = named["algorithm"] == base_algorithm(algorithm)
        runs = named.assign(lam=base)[(is_of_pair | is_base) & base.notna()]
        if runs.loc[runs["lam"] > 0, "lam"].nunique() > 1 and runs["lam"].nunique() > 2:
            several = len({other for _, other in pairs}) > 1
            yield from _lambda_findings(f"{algorithm} and {teacher}" if several else teacher, runs)


def _lambda_findings(teacher: str, runs: pd.DataFrame) -> Iterator[Finding]:
    best, low, high = _best_by_condition(runs), runs["lam"].min(), runs["lam"].max()
    balances = [runs[field].dropna() for field in BALANCES if field in runs]
    is_convex = all((balance == "convex").all() for balance in balances)
    for lam, name, beyond in ((low, "smallest", "smaller"), (high, "largest", "larger")):
        rows = best[best["lam"] == lam]
        if rows.empty:
            continue
        is_end = lam == 0 or (lam == 1 and is_convex)
        rest = f"no {beyond} value is possible" if is_end else f"{beyond} values were not tried"
        value = "0, without a teacher" if lam == 0 else f"{lam:g}, the {name} value tried"
        lead = f"with a lead of {_span(rows['lead'].map(points).astype(float))} points"
        is_warning = bool(rows["lead"].max() > MIN_LEAD) and (lam == 0 or not is_end)
        sentence = f"With {teacher} the best λ{_conditions(rows, runs)} is {value}, {lead}; {rest}."
        yield Finding.of("Best λ at an edge", sentence, runs.index, is_warning=is_warning)
    if len(best) and not best["lam"].isin([low, high]).any():
        value = f"{_span(best['lam'])}, inside the range tried ({low:g} to {high:g})"
        yield Finding.of("Best λ", f"With {teacher} the best λ{_conditions(best, runs)} is {value}.", runs.index)


def _best_by_condition(runs: pd.DataFrame) -> pd.DataFrame:
    """For each condition run with every λ: the best setting's `lam` and its `lead` over the best other λ."""
    settings = runs.groupby(["condition", "setting"], observed=True).agg(last=("last", "mean"), lam=("lam", "first"))
    means = settings.pivot_table(index="condition", columns="lam", values="last", aggfunc="max", observed=True).dropna()
    ranked = np.sort(means.to_numpy(dtype=float), axis=1)
    return pd.DataFrame({"lam": means.idxmax(axis=1).astype(float), "lead": ranked[:, -1] - ranked[:, -2]}, means.index)


def _conditions(rows: pd.DataFrame, runs: pd.DataFrame) -> str:
    """The conditions of these rows; empty if the runs have only one."""
    return f" for {listed(map(str, rows.index))}" if runs["condition"].nunique() > 1 else ""


def _span(values: "pd.Series[float]") -> str:
    low, high = f"{values.min():g}", f"{values.max():g}"
    return low if low == high else f"{low} to {high}"
