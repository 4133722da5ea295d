"""Does accuracy fall as clients differ more, and does distillation flatten the fall?"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from analysis.diagnosis.finding import Finding
from analysis.labels import CONDITION_SECTIONS
from analysis.stats import ENOUGH, holm, paired_p
from analysis.text import counted, each, listed, points
from fedray.results.loader import varying_fields

AXES = {"partition.alpha": "Dirichlet's α", "partition.classes_per_client": "the classes per client"}
"""What makes clients alike as it grows."""


def falling(named: pd.DataFrame) -> Iterator[Finding]:
    """A finding per axis of heterogeneity that was varied. `named` holds one setting per family."""
    for field, what in AXES.items():
        if field in named and named[field].nunique() > 1:
            yield from _along(named[named[field].notna()].astype({field: float}), field, what)


def slopes(named: pd.DataFrame, field: str) -> pd.DataFrame:
    """By family (rows) and seed (columns): how many shares of accuracy ten times the field's value bring.

    Least squares of `last` over log10 of the field, among runs whose data and partition differ in nothing else, then
    averaged; NaN where a seed lacks some of its values.
    """
    others = [other for other in varying_fields(named) if other.startswith(CONDITION_SECTIONS) and other != field]
    groups = named.groupby(["family", "seed", *others], observed=True, dropna=False)
    whole = named[field].nunique()
    found = {key: _slope(own[field], own["last"]) if own[field].nunique() == whole else np.nan for key, own in groups}
    index = pd.MultiIndex.from_tuples([key[:2] for key in found], names=["family", "seed"])
    return pd.Series(list(found.values()), index).groupby(["family", "seed"], sort=False).mean().unstack("seed")


def _slope(values: "pd.Series[float]", accuracy: "pd.Series[float]") -> float:
    return float(np.polyfit(np.log10(values.to_numpy(dtype=float)), accuracy.to_numpy(dtype=float), 1)[0])


def _along(named: pd.DataFrame, field: str, what: str) -> Iterator[Finding]:
    low, high = named[field].min(), named[field].max()
    found = slopes(named, field).dropna(how="all")
    if found.empty:
        return
    changes = (-found.mean(axis=1) * np.log10(high / low)).sort_values(ascending=False)
    each_change = each(changes.map(partial(points, signed=True)), "points")
    sentence = f"From {high:g} to {low:g} of {what}, fitted over its logarithm, accuracy changes by {each_change}."
    yield Finding.of("Heterogeneity", sentence, named.index, warns=bool(changes.min() < -0.1))
    if "FedAvg" in found.index:
        families = dict.fromkeys(named.loc[named["teacher_name"] != "", "family"].astype(str))
        yield from _flattened(found, [family for family in families if family in found.index], named)


def _flattened(found: pd.DataFrame, families: Sequence[str], named: pd.DataFrame) -> Iterator[Finding]:
    """A finding per family, its p Holm-corrected over them."""
    by_family = found.T
    saved = {family: (by_family["FedAvg"] - by_family[family]).dropna() for family in families}
    ps = holm([paired_p(list(own)) for own in saved.values()])
    for (family, own), p in zip(saved.items(), ps, strict=True):
        runs = named.index[named["family"].isin(["FedAvg", family])]
        if own.empty:
            sentence = f"No seed has both FedAvg and {family}: their slopes are not compared."
        else:
            less = "less" if own.mean() > 0 else "more"
            cost = f"a decade costs it {points(abs(own.mean()))} points {less} than FedAvg"
            sentence = f"{_verdict(family, own, p)}: {cost} ({_surety(own, p)})."
        yield Finding.of("Heterogeneity", sentence, runs)


def _verdict(family: str, saved: "pd.Series[float]", p: float) -> str:
    if not p < 0.05:
        return f"Whether {family} flattens the fall cannot be told"
    return f"{family} flattens the fall" if saved.mean() > 0 else f"{family} makes the fall steeper"


def _surety(saved: "pd.Series[float]", p: float) -> str:
    if len(saved) < ENOUGH:
        each = listed(points(value, signed=True) for value in saved)
        return f"{each} with {counted(len(saved), 'seed')}, too few for a test"
    return f"{len(saved)} seeds, p = {p:.2g}"
