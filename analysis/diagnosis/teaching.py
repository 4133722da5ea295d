"""Is the teacher worth listening to, and how much?"""

from collections.abc import Iterator

import pandas as pd

from analysis.diagnosis.finding import Finding, listed, points


def teacher_or_proxy(named: pd.DataFrame) -> Iterator[Finding]:
    """Per teacher: how often it is right about clients' examples, beside the best proxy it taught."""
    taught = named[(named["teacher_name"] != "") & named["teacher_accuracy"].notna()]
    for teacher, own in taught.groupby("teacher_name"):
        right, proxy = float(own["teacher_accuracy"].astype(float).mean()), float(own["last"].max())
        worse = right < proxy
        verdict = (
            "is worse than the proxies it teaches and may hold them back: a proxy reaches"
            if worse
            else "is better than any proxy it taught: the best reaches"
        )
        yield Finding.of(
            "Teacher", f"{teacher}, right on {points(right)} % of clients' examples, {verdict} {points(proxy)} %.",
            own.index, warns=worse,
        )  # fmt: skip


def lambda_at_edge(named: pd.DataFrame) -> Iterator[Finding]:
    """Per teacher: in which conditions the best λ is the smallest or largest that was tried."""
    if "strategy.lam" not in named:
        return
    swept = named[named["strategy.lam"].notna()].astype({"strategy.lam": float})
    for teacher in sorted(set(swept["teacher_name"]) - {""}):
        own = swept[swept["teacher_name"].isin([teacher, ""])]  # at λ = 0 no teacher is asked
        if own["strategy.lam"].nunique() > 2:
            yield from _edges(teacher, own)


def _edges(teacher: str, own: pd.DataFrame) -> Iterator[Finding]:
    means = own.groupby(["condition", "strategy.lam"], observed=True)["last"].mean()
    best = means.unstack("strategy.lam").dropna().idxmax(axis=1).astype(float)  # of conditions that have every λ
    low, high = own["strategy.lam"].min(), own["strategy.lam"].max()
    edges = [(low, "smaller", "smallest"), (high, "larger", "largest")]
    convex = "strategy.balance" not in own or (own["strategy.balance"] == "convex").all()
    for lam, beyond, name in edges:
        at = [str(condition) for condition in best.index[best == lam]]
        end = (lam, beyond) in ((0.0, "smaller"), (1.0, "larger")) and convex
        rest = "there is nothing beyond it." if end else f"{beyond} ones were not tried."
        if at:
            where = "" if len(at) == len(best) == 1 else f" for {listed(at)}"
            sentence = f"With {teacher} the best λ{where} is {lam:g}, the {name} that was tried; {rest}"
            yield Finding.of("λ at its edge", sentence, own.index, warns=not end)
    if len(best) and not best.isin([low, high]).any():
        span = f"{best.min():g}" if best.min() == best.max() else f"{best.min():g} to {best.max():g}"
        sentence = f"With {teacher} the best λ is {span}, inside what was tried ({low:g} to {high:g})."
        yield Finding.of("λ", sentence, own.index)
