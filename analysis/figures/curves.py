"""Accuracy by round, and by how unequal clients are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_by_round(named: pd.DataFrame, rounds: pd.DataFrame) -> "Figure | None":
    """A panel per condition, a line per setting: the mean over seeds, and a band of one standard deviation.

    `named` should hold one setting per family, or few: a line each. `rounds` are evaluated ones.
    """
    if rounds.empty or named.empty:
        return None
    looks = looks_of(named)
    conditions = present(named["condition"])
    with style.drawn(*style.size_of(len(conditions))) as figure:
        for axes, condition in zip(style.panels(figure, conditions, sharey=True, sharex=True), conditions, strict=True):
            curves = over_seeds(named[named["condition"] == condition], rounds, "accuracy")
            for family, curve in curves.groupby("family", observed=True):
                _draw_curve(axes, curve, looks[str(family)])
            axes.set_xlabel("round")
        _label_left(figure.axes, "test accuracy (%)")
        share_legend(figure, looks)
        return figure


def heterogeneity(named: pd.DataFrame) -> "Figure | None":
    """Accuracy of one setting per family by Dirichlet's α (log scale), with standard deviations over seeds."""
    spread = dirichlet(named)
    if spread["partition.alpha"].nunique() < 2:
        return None
    looks = looks_of(named)
    with style.drawn(7.2, 3.6) as figure:
        (axes,) = style.panels(figure, [""])
        ends = []
        for family, own in spread.groupby("family", observed=True):
            points = own.groupby("partition.alpha")["last"].agg(["mean", "std"]) * 100
            look = looks[str(family)]
            axes.errorbar(points.index, points["mean"], yerr=points["std"].fillna(0), capsize=2, markersize=4, **look)
            ends.append((float(points.index[-1]), float(points["mean"].iloc[-1]), str(family), look["color"]))
        axes.set_xscale("log")
        alphas = sorted(spread["partition.alpha"].unique())
        axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
        axes.minorticks_off()
        axes.set_xlabel("Dirichlet α (smaller: clients differ more)")
        axes.set_ylabel("accuracy, mean of the last rounds (%)")
        style.label_ends(axes, ends)
        return figure


def over_seeds(named: pd.DataFrame, rounds: pd.DataFrame, column: str) -> pd.DataFrame:
    """`mean` and `std` over seeds of a column of `rounds`, by `family` and `round`."""
    families = named["family"]
    of_runs = rounds[rounds["run"].isin(named.index)]
    own = of_runs.assign(family=pd.Categorical(of_runs["run"].astype(str).map(families), families.cat.categories))
    groups = own.groupby(["family", "round"], observed=True)[column]
    return pd.DataFrame({"mean": groups.mean(), "std": groups.std()}).reset_index()


def dirichlet(named: pd.DataFrame) -> pd.DataFrame:
    """The runs whose clients are drawn from a Dirichlet distribution."""
    if "partition.alpha" not in named:
        return named.iloc[:0].assign(**{"partition.alpha": np.nan})
    return named[named["partition.alpha"].notna()].astype({"partition.alpha": float})


def looks_of(named: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """How each family of all those known (not only those drawn) looks."""
    algorithms = dict(zip(named["family"].astype(str), named["algorithm"], strict=True))
    order = [family for family in named["family"].cat.categories if family in algorithms]
    return style.looks([(family, algorithms[family]) for family in order])


def present(labels: "pd.Series[Any]") -> list[str]:
    """The categories that occur, in their order."""
    occurring = set(labels.astype(str))
    return [str(label) for label in labels.cat.categories if label in occurring]


def share_legend(figure: "Figure", looks: dict[str, dict[str, Any]]) -> None:
    """One for all panels, above them."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=look["color"], linestyle=look["linestyle"], linewidth=1.8) for look in looks.values()]
    figure.legend(lines, list(looks), loc="outside upper left", ncols=min(len(looks), 4), fontsize=8)


def _draw_curve(axes: "Axes", curve: pd.DataFrame, look: dict[str, Any]) -> None:
    mean, std = 100 * curve["mean"], 100 * curve["std"].fillna(0)
    axes.plot(curve["round"], mean, color=look["color"], linestyle=look["linestyle"], linewidth=1.6)
    axes.fill_between(curve["round"], mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0)


def _label_left(axes: Sequence["Axes"], text: str) -> None:
    """Only the first panel of a row says what all of it shows."""
    for place, panel in enumerate(axes):
        if place % style.PANELS == 0:
            panel.set_ylabel(text)
