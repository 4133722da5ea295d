"""Checks of the accuracy lost to heterogeneity, and of the part that distillation recovers."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from analysis.diagnosis.finding import Finding
from analysis.labels import CONDITION_SECTIONS
from analysis.stats import MIN_PAIRS, holm, paired_p
from analysis.text import counted, listed, points, with_labels
from fedray.results.specs import varying_fields

TOPIC = "Heterogeneity"
AXES = {"partition.alpha": "Dirichlet α", "partition.classes_per_client": "classes per client"}
"""Fields by which clients become more alike, with their names."""
MAX_LOSS = 0.1
"""A larger loss of accuracy over the range of an axis is a warning."""


def accuracy_loss(named: pd.DataFrame) -> Iterator[Finding]:
    """Yield findings for each axis of heterogeneity that varies. `named` holds one setting per family."""
    for field, name in AXES.items():
        if field in named and named[field].nunique() > 1:
            yield from _along_axis(named[named[field].notna()].astype({field: float}), field, name)


def slopes(named: pd.DataFrame, field: str) -> pd.DataFrame:
    """Return the gain of accuracy for a tenfold value of a field, by family (rows) and seed (columns).

    Least squares fits of `last` over log10 of the field, among runs whose other data and partition fields are equal;
    the mean of these fits. NaN for a seed that lacks a value of the field.
    """
    others = [other for other in varying_fields(named) if other.startswith(CONDITION_SECTIONS) and other != field]
    groups = named.groupby(["family", "seed", *others], observed=True, dropna=False)
    count = named[field].nunique()
    fits = {
        key: _slope(runs[field], runs["last"]) if runs[field].nunique() == count else np.nan for key, runs in groups
    }
    index = pd.MultiIndex.from_tuples([key[:2] for key in fits], names=["family", "seed"])
    return pd.Series(list(fits.values()), index).groupby(["family", "seed"], sort=False).mean().unstack("seed")


def _slope(values: "pd.Series[float]", accuracy: "pd.Series[float]") -> float:
    return float(np.polyfit(np.log10(values.to_numpy(dtype=float)), accuracy.to_numpy(dtype=float), 1)[0])


def _along_axis(named: pd.DataFrame, field: str, name: str) -> Iterator[Finding]:
    low, high = named[field].min(), named[field].max()
    by_family = slopes(named, field).dropna(how="all")
    if by_family.empty:
        return
    changes = (-by_family.mean(axis=1) * np.log10(high / low)).sort_values(ascending=False)
    values = with_labels(changes.map(partial(points, signed=True)), "points")
    sentence = f"From {name} = {high:g} to {low:g}, accuracy changes by {values} (linear fit over the logarithm)."
    yield Finding.of(TOPIC, sentence, named.index, is_warning=bool(changes.min() < -MAX_LOSS))
    if "FedAvg" in by_family.index:
        families = dict.fromkeys(named.loc[named["teacher_name"] != "", "family"].astype(str))
        yield from _compared_with_fedavg(by_family, [family for family in families if family in by_family.index], named)


def _compared_with_fedavg(by_family: pd.DataFrame, families: Sequence[str], named: pd.DataFrame) -> Iterator[Finding]:
    """Yield a finding per family; p-values are Holm-corrected over the families."""
    by_seed = by_family.T
    recovered = {family: (by_seed["FedAvg"] - by_seed[family]).dropna() for family in families}
    ps = holm([paired_p(list(values)) for values in recovered.values()])
    for (family, values), p in zip(recovered.items(), ps, strict=True):
        runs = named.index[named["family"].isin(["FedAvg", family])]
        if values.empty:
            sentence = f"No seed has both FedAvg and {family}, so their slopes are not compared."
        else:
            sentence = f"{family} loses {_compared(float(values.mean()))} FedAvg: {_test(values, p)}."
        yield Finding.of(TOPIC, sentence, runs)


def _compared(recovered: float) -> str:
    if points(recovered) in ("0.0", "-0.0"):
        return "as much per decade as"
    return f"{points(abs(recovered))} points {'less' if recovered > 0 else 'more'} per decade than"


def _test(values: "pd.Series[float]", p: float) -> str:
    """The result of a test of the seeds' differences."""
    if len(values) < MIN_PAIRS:
        differences = listed(points(value, signed=True) for value in values)
        return f"{differences} with {counted(len(values), 'seed')}, too few for a test"
    return f"{'a significant' if p < 0.05 else 'no significant'} difference ({len(values)} seeds, p = {p:.2g})"
