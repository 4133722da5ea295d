"""Does accuracy fall as clients differ more, and does distillation flatten the fall?"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.diagnosis.finding import Finding, counted, each, listed, points
from analysis.paired import ENOUGH, paired_p

AXES = {"partition.alpha": "Dirichlet's α", "partition.classes_per_client": "the classes per client"}
"""What makes clients alike as it grows."""


def falling(named: pd.DataFrame) -> Iterator[Finding]:
    """A finding per axis of heterogeneity that was varied. `named` holds one setting per family."""
    for field, what in AXES.items():
        if field in named and named[field].nunique() > 1:
            yield from _along(named[named[field].notna()].astype({field: float}), field, what)


def slopes(named: pd.DataFrame, field: str) -> pd.DataFrame:
    """By family (rows) and seed (columns): how many shares of accuracy ten times the field's value bring.

    Least squares of `last` over log10 of the field; NaN where a seed lacks some of its values.
    """
    groups = named.groupby(["family", "seed"], observed=True)
    whole = named[field].nunique()
    found = {key: _slope(own[field], own["last"]) if own[field].nunique() == whole else np.nan for key, own in groups}
    return pd.Series(found, pd.MultiIndex.from_tuples(found, names=["family", "seed"])).unstack("seed")


def _slope(values: "pd.Series[float]", accuracy: "pd.Series[float]") -> float:
    return float(np.polyfit(np.log10(values.to_numpy(dtype=float)), accuracy.to_numpy(dtype=float), 1)[0])


def _along(named: pd.DataFrame, field: str, what: str) -> Iterator[Finding]:
    low, high = named[field].min(), named[field].max()
    found = slopes(named, field).dropna(how="all")
    if found.empty:
        return
    decades = np.log10(high / low)
    falls = (found.mean(axis=1) * decades).sort_values()
    sentence = f"From {high:g} to {low:g} of {what} accuracy falls by {each(falls.map(points), 'points')}."
    yield Finding.of("Heterogeneity", sentence, named.index, warns=bool(falls.max() > 0.1))
    taught = [
        f for f in dict.fromkeys(named.loc[named["teacher_name"] != "", "family"].astype(str)) if f in found.index
    ]
    if "FedAvg" in found.index:
        yield from (_flattened(found, family, named) for family in taught)


def _flattened(found: pd.DataFrame, family: str, named: pd.DataFrame) -> Finding:
    by_family = found.T
    saved = (by_family["FedAvg"] - by_family[family]).dropna()
    runs = named.index[named["family"].isin(["FedAvg", family])]
    if saved.empty:
        sentence = f"No seed has both FedAvg and {family}: their slopes are not compared."
    else:
        less = "less" if saved.mean() > 0 else "more"
        cost = f"a decade costs it {points(abs(saved.mean()))} points {less} than FedAvg"
        sentence = f"{_verdict(family, saved)}: {cost} ({_surety(saved)})."
    return Finding.of("Heterogeneity", sentence, runs)


def _verdict(family: str, saved: "pd.Series[float]") -> str:
    """Flatter only where two seeds or more say so, and, with enough of them, a t-test at 5 %."""
    agree = bool((np.sign(saved) == np.sign(saved.iloc[0])).all())
    sure = agree and len(saved) > 1 if len(saved) < ENOUGH else paired_p(list(saved)) < 0.05
    if not sure:
        return f"Whether {family} flattens the fall cannot be told"
    return f"{family} flattens the fall" if saved.mean() > 0 else f"{family} makes the fall steeper"


def _surety(saved: "pd.Series[float]") -> str:
    if len(saved) < ENOUGH:
        each = listed(points(value, signed=True) for value in saved)
        return f"{each} with {counted(len(saved), 'seed')}, too few for a test"
    return f"{len(saved)} seeds, p = {paired_p(list(saved)):.2g}"
