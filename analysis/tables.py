"""The tables of a report: settings by conditions, over seeds, beside their baselines.

`named` are runs as `naming.name_runs` and `outcomes.outcomes` give them. Accuracies are shares from 0 to 1.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.naming import CONDITIONS, varied
from analysis.outcomes import rounds_to
from analysis.paired import holm, paired_p

BASELINES = ("FedAvg", "FedProx")
ALL = "all"
"""The condition that stands for all of them together."""


def comparison(named: pd.DataFrame, value: str = "last", baselines: Sequence[str] = BASELINES) -> pd.DataFrame:
    """A row per setting and condition: `seeds`, `mean`, `std` (n - 1) of a figure over seeds, and whether it is `best`.

    For each baseline that was run too: `difference to B`, the mean over pairs of the same seed, condition and shared
    fields; `pairs to B`; `p to B`, of a paired t-test over them, Holm-corrected over the settings of a condition.
    A baseline with several settings (FedProx's μ) is represented by the best of those with most seeds. With several
    conditions, the rows of `all` average over them: means of seeds that have them all, differences over all pairs.
    """
    table = _over_seeds(named, value)
    for baseline in baselines:
        pairs = _pairs(named, value, baseline)
        if len(pairs):
            table = table.join(_judged(pairs, baseline))
    table = table.reset_index()
    highest = table.groupby("condition", observed=True, sort=False)["mean"].transform("max")
    return table.assign(best=table["mean"].round(4) == highest.round(4))


def to_target(named: pd.DataFrame, rounds: pd.DataFrame, target: float | None = None) -> pd.DataFrame:
    """A row per setting and condition: `target`, `seeds`, how many `reached` it, and in which round, on `mean`.

    Without a target, it is what FedAvg comes to in the condition (the mean of `last` over seeds), or else what the
    first setting comes to.
    """
    reference = named[named["algorithm"] == "FedAvg"] if (named["algorithm"] == "FedAvg").any() else named
    first = reference[reference["setting"] == reference["setting"].min()]
    own = first.groupby("condition", observed=True)["last"].mean()
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
    columns = ["last", "seconds", "bytes", "teacher_flops", "proxy_flops"]
    present = [column for column in columns if column in named and named[column].notna().any()]
    grouped = named.groupby(["setting", "condition"], observed=True)
    return grouped[present].mean().join(grouped.size().rename("seeds")).reset_index()


def best_of_families(named: pd.DataFrame, value: str = "last") -> pd.DataFrame:
    """The runs of one setting per family: of those in most of its conditions, the best on average over these."""
    scores = named.groupby(["family", "setting", "condition"], observed=True)[value].mean()
    chosen = [setting for _, setting in _best(scores.groupby(["family", "setting"], observed=True), "family")]
    return named[named["setting"].isin(chosen)]


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


def _best(groups: Any, within: str) -> list[tuple[str, str]]:
    """Of each `within`, the group with the highest mean; what has fewer values than others is not considered."""
    ranked = groups.agg(["count", "mean"]).dropna().sort_values(["count", "mean"], kind="stable")
    return list(ranked.groupby(within, observed=True).tail(1).index)


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
    shared = [field for field in varied(named) if not field.startswith((*algorithms, *CONDITIONS))]
    beside = named["condition"].astype(str)
    for field in shared:
        beside = beside + " / " + named[field].astype(str)
    rows = named.assign(beside=beside)[["algorithm", "setting", "condition", "seed", "beside", value]]
    own = rows[rows["algorithm"] == baseline]
    chosen = _best(own.groupby(["beside", "setting"], observed=True)[value], "beside")
    base = own.set_index(["beside", "setting"]).loc[chosen].reset_index()[["beside", "seed", value]]
    others = rows[rows["algorithm"] != baseline]
    pairs = others.merge(base, on=["beside", "seed"], suffixes=("", " of baseline"))
    return pairs.assign(difference=pairs[value] - pairs[f"{value} of baseline"]).dropna(subset="difference")


def _judged(pairs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    frames = [pairs] + ([pairs.assign(condition=ALL)] if pairs["condition"].nunique() > 1 else [])
    rows = pd.concat([frame.astype({"condition": "str"}) for frame in frames])
    groups = rows.groupby(["setting", "condition"], observed=True)["difference"]
    ps = groups.apply(lambda differences: paired_p(list(differences)))
    corrected = ps.groupby("condition").transform(lambda own: pd.Series(holm(list(own)), index=own.index))
    return pd.DataFrame(
        {
            f"difference to {baseline}": groups.mean(),
            f"pairs to {baseline}": groups.size(),
            f"p to {baseline}": corrected,
        }
    )
