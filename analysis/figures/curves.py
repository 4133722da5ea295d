"""Figures of accuracy by round and by heterogeneity of the clients."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.families import chosen, joined, present, share_legend, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_by_round(named: pd.DataFrame, rounds: pd.DataFrame) -> "Figure | None":
    """Return a figure with a panel per condition and a line per family: mean and standard deviation over seeds.

    `named` should hold one setting per family: several are averaged. `rounds` holds evaluated rounds.
    """
    from matplotlib.ticker import MaxNLocator

    shown, note = chosen(named)
    rows = joined(shown, rounds)
    if rows.empty:
        return None
    styles, conditions = styles_of(named), present(rows["condition"])
    with style.new_figure(*style.size_of(len(conditions))) as figure:
        panels = style.panels(figure, conditions, sharey=True, sharex=True)
        for axes, condition in zip(panels, conditions, strict=True):
            curves = over_seeds(rows[rows["condition"] == condition], "test_accuracy")
            for family, curve in curves.groupby("family", observed=True):
                _draw_curve(axes, curve, styles[str(family)])
            if rows["round"].nunique() == 1:
                axes.set_xlim(rows["round"].iloc[0] - 1, rows["round"].iloc[0] + 1)
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
        style.label_outer(panels, "round", "test accuracy (%)")
        share_legend(figure, {family: styles[family] | {"marker": ""} for family in present(rows["family"])}, note)
        return figure


def heterogeneity(named: pd.DataFrame) -> "Figure | None":
    """Return a figure of accuracy by Dirichlet's α (log scale): mean and standard deviation over seeds per family.

    `named` should hold one setting per family.
    """
    shown, note = chosen(named)
    runs = dirichlet(shown)
    if runs["partition.alpha"].nunique() < 2:
        return None
    styles = styles_of(named)
    with style.new_figure(style.SINGLE_WIDTH_INCHES, 3.6) as figure:
        (axes,) = style.panels(figure, [note])
        ends = []
        for family, family_runs in runs.groupby("family", observed=True):
            points = family_runs.groupby("partition.alpha")["last"].agg(["mean", "std"]) * 100
            line = styles[str(family)]
            axes.errorbar(points.index, points["mean"], yerr=points["std"].fillna(0), capsize=2, markersize=4, **line)
            ends.append((float(points.index[-1]), float(points["mean"].iloc[-1]), str(family), line["color"]))
        axes.set_xscale("log")
        alphas = sorted(runs["partition.alpha"].unique())
        axes.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
        axes.minorticks_off()
        style.label_outer([axes], "Dirichlet α (smaller: more heterogeneous clients)", style.accuracy_label(runs["k"]))
        style.label_ends(axes, ends)
        return figure


def over_seeds(rounds: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return `mean` and `std` of a column over seeds, one row per `family` and `round`."""
    groups = rounds.groupby(["family", "round"], observed=True)[column]
    return pd.DataFrame({"mean": groups.mean(), "std": groups.std()}).reset_index()


def dirichlet(named: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose partition is a Dirichlet distribution."""
    if "partition.alpha" not in named:
        return named.iloc[:0].assign(**{"partition.alpha": np.nan})
    return named[named["partition.alpha"].notna()].astype({"partition.alpha": float})


def _draw_curve(axes: "Axes", curve: pd.DataFrame, line: dict[str, Any]) -> None:
    mean, std = 100 * curve["mean"], 100 * curve["std"].fillna(0)
    marker = line["marker"] if len(curve) == 1 else ""  # a line through one point would be invisible
    axes.plot(curve["round"], mean, **line | {"marker": marker}, markersize=5, linewidth=1.6)
    axes.fill_between(curve["round"], mean - std, mean + std, color=line["color"], alpha=0.15, linewidth=0)
