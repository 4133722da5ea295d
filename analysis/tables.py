"""The tables of a report: settings by conditions, over seeds, beside their baselines.

`named` are runs as `labels.name_runs` and `outcomes.outcomes` give them. Accuracies are shares from 0 to 1.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.labels import CONDITION_SECTIONS
from analysis.outcomes import rounds_to
from analysis.stats import holm, paired_p
from fedray.results.loader import varying_fields

BASELINES = ("FedAvg", "FedProx")
ALL = "all"
"""The condition that stands for all of them together."""


def comparison(named: pd.DataFrame, value: str = "last", baselines: Sequence[str] = BASELINES) -> pd.DataFrame:
    """A row per setting and condition: `seeds`, `mean`, `std` (n - 1) of a figure over seeds, and whether it is `best`.

    For each baseline that was run too: `difference to B`, the mean over pairs of the same seed, condition and shared
    fields; `pairs to B`; `p to B`, of a paired t-test over them, Holm-corrected over the settings of a condition; and
    `B is`, the setting of B that stands for it: of several (FedProx's μ), the best on average. With several conditions,
    the rows of `all` are of the seeds that have every condition, each seed's conditions averaged first: what seeds
    share is not counted as often as there are conditions.
    """
    table = _over_seeds(named, value)
    for baseline in baselines:
        pairs = _pairs(named, value, baseline)
        if len(pairs):
            table = table.join(_judged(pairs, baseline, named["condition"].nunique()))
    table = table.reset_index()
    highest = table.groupby("condition", observed=True, sort=False)["mean"].transform("max")
    return table.assign(best=table["mean"].round(4) == highest.round(4))


def reference(named: pd.DataFrame) -> pd.DataFrame:
    """The runs whose accuracy is a target: FedAvg's, of its best setting, or else those of the first setting."""
    own = named[named["algorithm"] == "FedAvg"]
    return best_of_families(own) if len(own) else named[named["setting"] == named["setting"].min()]


def to_target(named: pd.DataFrame, rounds: pd.DataFrame, target: float | None = None) -> pd.DataFrame:
    """A row per setting and condition: `target`, `seeds`, how many `reached` it, and in which round, on `mean`.

    Without a target, it is what `reference` comes to in the condition (the mean of `last` over seeds); NaN where it
    was not run.
    """
    own = reference(named).groupby("condition", observed=True)["last"].mean()
    targets = named["condition"].astype(str).map(own).astype(float) if target is None else named["last"] * 0 + target
    table = named.assign(target=targets, reached=rounds_to(rounds, targets))
    grouped = table.groupby(["setting", "condition"], observed=True)
    return pd.DataFrame(
        {
            "target": grouped["target"].first(),
            "seeds": grouped.size(),
            "reached": grouped["reached"].count(),
            "mean": grouped["reached"].mean(),
        }
    ).reset_index()


def costs(named: pd.DataFrame) -> pd.DataFrame:
    """A row per setting and condition: means over seeds of what its runs took, and of what came of it."""
    columns = ["last", "seconds", "bytes", "teacher_flops", "client_flops"]
    present = [column for column in columns if column in named and named[column].notna().any()]
    grouped = named.groupby(["setting", "condition"], observed=True)
    return grouped[present].mean().join(grouped.size().rename("seeds")).reset_index()


def best_of_families(named: pd.DataFrame, value: str = "last") -> pd.DataFrame:
    """The runs of one setting per family: the best on average."""
    return named[named["setting"].isin(_best(named, named["family"].astype(str), value))]


def wide(table: pd.DataFrame, cells: "pd.Series[str]") -> pd.DataFrame:
    """Cells by setting (rows) and condition (columns), in their order; empty where there is no run."""
    order = list(dict.fromkeys(table["condition"]))
    known = [str(c) for c in named_order(table["condition"]) if c in order]
    frame = table.assign(cell=cells).pivot(index="setting", columns="condition", values="cell")
    return frame.reindex(columns=known).fillna("")


def named_order(labels: "pd.Series[Any]") -> list[str]:
    """The labels in their categories' order, what has none last."""
    categories = list(labels.cat.categories) if isinstance(labels.dtype, pd.CategoricalDtype) else []
    return [*categories, *(label for label in dict.fromkeys(labels.astype(str)) if label not in categories)]


def _best(named: pd.DataFrame, groups: "pd.Series[str]", value: str) -> list[str]:
    """Of each group of runs, the setting with the highest mean over the cells (seed and condition) of all its rivals.

    A setting with half of the cells of another, or fewer, is no rival: a lucky seed proves nothing.
    """
    found: list[str] = []
    for _, own in named[named[value].notna()].groupby(groups):
        cells = own.pivot_table(index="setting", columns=["condition", "seed"], values=value, observed=True)
        counts = cells.count(axis=1)
        rivals = cells[counts > counts.max() / 2]
        shared = rivals.dropna(axis=1)
        found.append(str((rivals if shared.empty else shared).mean(axis=1).idxmax()))
    return found


def _over_seeds(named: pd.DataFrame, value: str) -> pd.DataFrame:
    frames = [named]
    if named["condition"].nunique() > 1:
        conditions = named["condition"].nunique()
        each = named.groupby(["setting", "seed"], observed=True)
        whole = each[value].mean()[each["condition"].nunique() == conditions]
        frames.append(whole.reset_index().assign(condition=ALL))
    order = [*named["condition"].cat.categories, ALL]
    rows = pd.concat([frame[["setting", "condition", value]].astype({"condition": "str"}) for frame in frames])
    rows["condition"] = pd.Categorical(rows["condition"], categories=order, ordered=True)
    groups = rows.groupby(["setting", "condition"], observed=True)[value]
    return pd.DataFrame({"seeds": groups.count(), "mean": groups.mean(), "std": groups.std()})


def _pairs(named: pd.DataFrame, value: str, baseline: str) -> pd.DataFrame:
    """A row per run that has a run of the baseline to stand beside it, and their `difference`."""
    algorithms = ("strategy.", "teacher.")
    shared = [field for field in varying_fields(named) if not field.startswith((*algorithms, *CONDITION_SECTIONS))]
    training = pd.Series("", named.index)
    for field in shared:
        training = training + " / " + named[field].astype(str)
    rows = named.assign(training=training)[["algorithm", "setting", "condition", "seed", "training", value]]
    own = rows[rows["algorithm"] == baseline]
    base = own[own["setting"].isin(_best(own, own["training"], value))].drop(columns="algorithm")
    others = rows[rows["algorithm"] != baseline]
    pairs = others.merge(base, on=["condition", "seed", "training"], suffixes=("", " of baseline"))
    return pairs.assign(difference=pairs[value] - pairs[f"{value} of baseline"]).dropna(subset="difference")


def _judged(pairs: pd.DataFrame, baseline: str, conditions: int) -> pd.DataFrame:
    columns = ["setting", "condition", "difference", "setting of baseline"]
    frames = [pairs[columns].astype({"condition": "str"})]
    if conditions > 1:
        each = pairs.groupby(["setting", "seed", "setting of baseline"], observed=True)
        whole = each["difference"].mean()[each["condition"].nunique() == conditions]
        frames.append(whole.reset_index().assign(condition=ALL)[columns])
    groups = pd.concat(frames).groupby(["setting", "condition"], observed=True)
    ps = groups["difference"].apply(lambda differences: paired_p(list(differences)))
    corrected = ps.groupby("condition").transform(lambda own: pd.Series(holm(list(own)), index=own.index))
    return pd.DataFrame(
        {
            f"difference to {baseline}": groups["difference"].mean(),
            f"pairs to {baseline}": groups.size(),
            f"p to {baseline}": corrected,
            f"{baseline} is": groups["setting of baseline"].first().astype(str),
        }
    )
