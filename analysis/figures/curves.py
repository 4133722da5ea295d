"""Accuracy by round, and by how unequal clients are."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.families import chosen, joined, present, share_legend, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_by_round(named: pd.DataFrame, rounds: pd.DataFrame) -> "Figure | None":
    """A panel per condition, a line per family: the mean over seeds, and a band of one standard deviation.

    `named` should hold one setting per family: more are averaged. `rounds` are evaluated ones.
    """
    from matplotlib.ticker import MaxNLocator

    shown, said = chosen(named)
    own = joined(shown, rounds)
    if own.empty:
        return None
    looks = styles_of(named)
    conditions = present(own["condition"])
    with style.new_figure(*style.size_of(len(conditions))) as figure:
        for axes, condition in zip(style.panels(figure, conditions, sharey=True, sharex=True), conditions, strict=True):
            curves = over_seeds(own[own["condition"] == condition], "test_accuracy")
            for family, curve in curves.groupby("family", observed=True):
                _draw_curve(axes, curve, looks[str(family)])
            if own["round"].nunique() == 1:
                axes.set_xlim(own["round"].iloc[0] - 1, own["round"].iloc[0] + 1)
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        style.label_outer(figure.axes[: len(conditions)], "round", "test accuracy (%)")
        share_legend(figure, {f: looks[f] | {"marker": ""} for f in present(own["family"])}, said)
        return figure


def heterogeneity(named: pd.DataFrame) -> "Figure | None":
    """Accuracy of one setting per family by Dirichlet's α (log scale), with standard deviations over seeds."""
    shown, said = chosen(named)
    spread = dirichlet(shown)
    if spread["partition.alpha"].nunique() < 2:
        return None
    looks = styles_of(named)
    with style.new_figure(7.2, 3.6) as figure:
        (axes,) = style.panels(figure, [said])
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
        style.label_outer([axes], "Dirichlet α (smaller: clients differ more)", style.ACCURACY)
        style.label_ends(axes, ends)
        return figure


def over_seeds(rounds: pd.DataFrame, column: str) -> pd.DataFrame:
    """`mean` and `std` over seeds of a column of `rounds`, by `family` and `round`."""
    groups = rounds.groupby(["family", "round"], observed=True)[column]
    return pd.DataFrame({"mean": groups.mean(), "std": groups.std()}).reset_index()


def dirichlet(named: pd.DataFrame) -> pd.DataFrame:
    """The runs whose clients are drawn from a Dirichlet distribution."""
    if "partition.alpha" not in named:
        return named.iloc[:0].assign(**{"partition.alpha": np.nan})
    return named[named["partition.alpha"].notna()].astype({"partition.alpha": float})


def _draw_curve(axes: "Axes", curve: pd.DataFrame, look: dict[str, Any]) -> None:
    mean, std = 100 * curve["mean"], 100 * curve["std"].fillna(0)
    alone = look["marker"] if len(curve) == 1 else ""  # a line needs two points to be seen
    axes.plot(curve["round"], mean, **look | {"marker": alone}, markersize=5, linewidth=1.6)
    axes.fill_between(curve["round"], mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0)
