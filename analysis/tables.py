"""Report tables: settings by conditions, aggregated over seeds and compared with baselines.

`named`: runs as returned by `labels.name_runs` and `outcomes.outcomes`. Accuracies are fractions from 0 to 1.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.labels import CONDITION_SECTIONS
from analysis.outcomes import rounds_to
from analysis.stats import holm, paired_p
from fedray.results.specs import varying_fields

BASELINES = ("FedAvg", "FedProx")
ALL = "all"
"""Label of the mean over all conditions."""


def comparison(named: pd.DataFrame, value: str = "last", baselines: Sequence[str] = BASELINES) -> pd.DataFrame:
    """Return one row per setting and condition: `seeds`, `mean` and `std` (n - 1) of a metric over seeds, and `best`.

    For each baseline B among the runs:
    - `difference to B`: mean over pairs with the same seed, condition and training fields
    - `pairs to B`: number of these pairs
    - `p to B`: p-value of a paired t-test, Holm-corrected over the settings of a condition
    - `B is`: the setting used for B, the best on average if there are several (FedProx's μ)

    With several conditions, rows of `all` average each seed over conditions first and use seeds with every condition
    only, so that conditions of one seed do not count as independent samples.
    """
    table = _over_seeds(named, value)
    for baseline in baselines:
        pairs = _pairs(named, value, baseline)
        if len(pairs):
            table = table.join(_differences(pairs, baseline, named["condition"].nunique()))
    table = table.reset_index()
    highest = table.groupby("condition", observed=True, sort=False)["mean"].transform("max")
    return table.assign(best=table["mean"].round(4) == highest.round(4))


def reference(named: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that define the target accuracy: those of FedAvg's best setting, else of the first setting."""
    fedavg = named[named["algorithm"] == "FedAvg"]
    return best_of_families(fedavg) if len(fedavg) else named[named["setting"] == named["setting"].min()]


def to_target(named: pd.DataFrame, rounds: pd.DataFrame, target: float | None = None) -> pd.DataFrame:
    """Return one row per setting and condition: `target`, `seeds`, number of seeds that `reached` it, `mean` round.

    The target defaults to the mean `last` of `reference` in the condition; it is NaN if `reference` has no run there.
    """
    levels = reference(named).groupby("condition", observed=True)["last"].mean()
    targets = named["condition"].astype(str).map(levels).astype(float) if target is None else named["last"] * 0 + target
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
    """Return one row per setting and condition: mean costs and accuracy over seeds."""
    columns = ["last", "seconds", "bytes", "teacher_flops", "client_flops"]
    present = [column for column in columns if column in named and named[column].notna().any()]
    grouped = named.groupby(["setting", "condition"], observed=True)
    return grouped[present].mean().join(grouped.size().rename("seeds")).reset_index()


def best_of_families(named: pd.DataFrame, value: str = "last") -> pd.DataFrame:
    """Return the runs of each family's best setting: the one with the highest mean of `value`."""
    return named[named["setting"].isin(_best_settings(named, named["family"].astype(str), value))]


def wide(table: pd.DataFrame, cells: "pd.Series[str]") -> pd.DataFrame:
    """Return cells by setting (rows) and condition (columns) in the order of the labels; empty without a run."""
    order = list(dict.fromkeys(table["condition"]))
    known = [str(condition) for condition in label_order(table["condition"]) if condition in order]
    frame = table.assign(cell=cells).pivot(index="setting", columns="condition", values="cell")
    return frame.reindex(columns=known).fillna("")


def label_order(labels: "pd.Series[Any]") -> list[str]:
    """Return the labels in the order of their categories; labels without a category come last."""
    categories = list(labels.cat.categories) if isinstance(labels.dtype, pd.CategoricalDtype) else []
    return [*categories, *(label for label in dict.fromkeys(labels.astype(str)) if label not in categories)]


def _best_settings(named: pd.DataFrame, groups: "pd.Series[str]", value: str) -> list[str]:
    """The setting of each group with the highest mean over the (seed, condition) cells that all its rivals have.

    Settings with at most half as many cells as the fullest one are excluded, so that a lucky seed cannot win.
    """
    best: list[str] = []
    for _, runs in named[named[value].notna()].groupby(groups):
        cells = runs.pivot_table(index="setting", columns=["condition", "seed"], values=value, observed=True)
        counts = cells.count(axis=1)
        rivals = cells[counts > counts.max() / 2]
        shared = rivals.dropna(axis=1)
        best.append(str((rivals if shared.empty else shared).mean(axis=1).idxmax()))
    return best


def _over_seeds(named: pd.DataFrame, value: str) -> pd.DataFrame:
    frames = [named]
    if named["condition"].nunique() > 1:
        conditions = named["condition"].nunique()
        by_seed = named.groupby(["setting", "seed"], observed=True)
        complete = by_seed[value].mean()[by_seed["condition"].nunique() == conditions]
        frames.append(complete.reset_index().assign(condition=ALL))
    order = [*named["condition"].cat.categories, ALL]
    rows = pd.concat([frame[["setting", "condition", value]].astype({"condition": "str"}) for frame in frames])
    rows["condition"] = pd.Categorical(rows["condition"], categories=order, ordered=True)
    groups = rows.groupby(["setting", "condition"], observed=True)[value]
    return pd.DataFrame({"seeds": groups.count(), "mean": groups.mean(), "std": groups.std()})


def _pairs(named: pd.DataFrame, value: str, baseline: str) -> pd.DataFrame:
    """One row per run that can be paired with a run of the baseline, with their `difference`."""
    ignored = ("strategy.", "teacher.", *CONDITION_SECTIONS)
    shared = [field for field in varying_fields(named) if not field.startswith(ignored)]
    training = pd.Series("", named.index)
    for field in shared:
        training = training + " / " + named[field].astype(str)
    rows = named.assign(training=training)[["algorithm", "setting", "condition", "seed", "training", value]]
    of_baseline = rows[rows["algorithm"] == baseline]
    best = _best_settings(of_baseline, of_baseline["training"], value)
    baseline_rows = of_baseline[of_baseline["setting"].isin(best)].drop(columns="algorithm")
    others = rows[rows["algorithm"] != baseline]
    pairs = others.merge(baseline_rows, on=["condition", "seed", "training"], suffixes=("", " of baseline"))
    return pairs.assign(difference=pairs[value] - pairs[f"{value} of baseline"]).dropna(subset="difference")


def _differences(pairs: pd.DataFrame, baseline: str, conditions: int) -> pd.DataFrame:
    columns = ["setting", "condition", "difference", "setting of baseline"]
    frames = [pairs[columns].astype({"condition": "str"})]
    if conditions > 1:
        by_seed = pairs.groupby(["setting", "seed", "setting of baseline"], observed=True)
        complete = by_seed["difference"].mean()[by_seed["condition"].nunique() == conditions]
        frames.append(complete.reset_index().assign(condition=ALL)[columns])
    groups = pd.concat(frames).groupby(["setting", "condition"], observed=True)
    ps = groups["difference"].apply(lambda differences: paired_p(list(differences)))
    corrected = ps.groupby("condition").transform(lambda group: pd.Series(holm(list(group)), index=group.index))
    return pd.DataFrame(
        {
            f"difference to {baseline}": groups["difference"].mean(),
            f"pairs to {baseline}": groups.size(),
            f"p to {baseline}": corrected,
            f"{baseline} is": groups["setting of baseline"].first().astype(str),
        }
    )
