"""Is the teacher worth listening to, and how much?"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.diagnosis.finding import Finding
from analysis.text import listed, points

LEAD = 0.01
"""A best λ that leads by less than a point may owe it to chance."""


def teacher_or_proxy(named: pd.DataFrame) -> Iterator[Finding]:
    """Per teacher: how often it is right about clients' examples, beside the best proxies it taught there."""
    targets = named[(named["teacher_name"] != "") & named["teacher_accuracy"].notna()]
    for teacher, own in targets.groupby("teacher_name"):
        right = own.astype({"teacher_accuracy": float}).groupby("condition", observed=True)["teacher_accuracy"].mean()
        means = own.groupby(["condition", "setting"], observed=True)["last"].mean()
        proxy = means.groupby("condition", observed=True).max()
        worse, nearest = right.index[right < proxy], str((right - proxy).idxmin())
        where = f" ({nearest})" if len(right) > 1 else ""
        numbers = (
            f"right on {points(right.loc[nearest])} % of the examples that clients train on, "
            f"and the best proxy{where} on {points(proxy.loc[nearest])} % of the test set."
        )
        verdict = (
            f"is worse than proxies it teaches (on {listed(map(str, worse))}) and may hold them back"
            if len(worse)
            else "is better than any proxy it taught"
        )
        yield Finding.of("Teacher", f"{teacher} {verdict}: it is {numbers}", own.index, warns=bool(len(worse)))


def lambda_at_edge(named: pd.DataFrame) -> Iterator[Finding]:
    """Per teacher: in which conditions the best λ is the smallest or largest that was tried. FedAvg is λ = 0."""
    if "strategy.lam" not in named:
        return
    untaught = named["algorithm"] == "FedAvg"
    swept = named.assign(lam=named["strategy.lam"].where(~untaught, 0.0))
    swept = swept[swept["lam"].notna()].astype({"lam": float})
    for teacher in sorted(set(swept["teacher_name"]) - {""}):
        own = swept[swept["teacher_name"].isin([teacher, ""])]  # at λ = 0 no teacher is asked
        if own.loc[own["lam"] > 0, "lam"].nunique() > 1 and own["lam"].nunique() > 2:
            yield from _edges(teacher, own)


def _edges(teacher: str, own: pd.DataFrame) -> Iterator[Finding]:
    best, low, high = _best(own), own["lam"].min(), own["lam"].max()
    convex = "strategy.balance" not in own or (own["strategy.balance"].dropna() == "convex").all()
    for lam, name, beyond in ((low, "the smallest", "smaller"), (high, "the largest", "larger")):
        at = best[best["lam"] == lam]
        if at.empty:
            continue
        end = lam == 0 or (lam == 1 and convex)
        rest = "there is nothing beyond it" if end else f"{beyond} ones were not tried"
        what = "0, no teacher at all" if lam == 0 else f"{lam:g}, {name} that was tried"
        where = _where(at, own)
        lead = f"by {_span(at['lead'].map(points).astype(float))} points"
        warns = bool(at["lead"].max() > LEAD) and (lam == 0 or not end)
        sentence = f"With {teacher} the best λ{where} is {what}, {lead}; {rest}."
        yield Finding.of("λ at its edge", sentence, own.index, warns=warns)
    if len(best) and not best["lam"].isin([low, high]).any():
        inside = f"{_span(best['lam'])}, inside what was tried ({low:g} to {high:g})"
        yield Finding.of("λ", f"With {teacher} the best λ{_where(best, own)} is {inside}.", own.index)


def _best(own: pd.DataFrame) -> pd.DataFrame:
    """By condition that has every λ: the best setting's `lam`, and its `lead` over the best with another λ."""
    settings = own.groupby(["condition", "setting"], observed=True).agg(last=("last", "mean"), lam=("lam", "first"))
    means = settings.pivot_table(index="condition", columns="lam", values="last", aggfunc="max", observed=True).dropna()
    ranked = np.sort(means.to_numpy(dtype=float), axis=1)
    return pd.DataFrame({"lam": means.idxmax(axis=1).astype(float), "lead": ranked[:, -1] - ranked[:, -2]}, means.index)


def _where(some: pd.DataFrame, own: pd.DataFrame) -> str:
    """For which conditions, unless there is only one."""
    return f" for {listed(map(str, some.index))}" if own["condition"].nunique() > 1 else ""


def _span(values: "pd.Series[float]") -> str:
    low, high = f"{values.min():g}", f"{values.max():g}"
    return low if low == high else f"{low} to {high}"
