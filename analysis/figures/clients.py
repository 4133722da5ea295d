"""Figures of accuracy across clients and of the label distribution by client."""

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.figures import style
from analysis.figures.families import chosen, joined, present, share_legend, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BUBBLE_ROWS = 20
"""Maximum number of clients and of classes with bubbles; of more, the first ones are drawn."""


def spread(named: pd.DataFrame, clients: pd.DataFrame) -> "Figure | None":
    """Return a figure with a panel per condition and a row per family: clients' train accuracy, median, quartiles.

    `named` should hold one setting per family. `clients` has `run`, `client` and `train_accuracy` of the last round (a
    share; NaN if the client failed). Each dot is a client; all seeds are drawn.
    """
    shown, note = chosen(named)
    rows = joined(shown, clients).dropna(subset="train_accuracy")
    if rows.empty:
        return None
    styles = styles_of(named)
    conditions, families = present(rows["condition"]), present(rows["family"])
    names = [_wrapped(family) for family in families]
    row_height = max(0.36, *(0.08 + 0.16 * len(name.splitlines()) for name in names))
    with style.new_figure(*style.size_of(len(conditions), 0.65 + row_height * len(families))) as figure:
        panels = style.panels(figure, conditions, sharex=True, sharey=True)
        for axes, condition in zip(panels, conditions, strict=True):
            axes.grid(visible=False)
            axes.grid(axis="x", color=style.FAINT_COLOR, alpha=0.35, linewidth=0.6)
            for index, family in enumerate(families):
                selected = (rows["condition"] == condition) & (rows["family"] == family)
                if selected.any():
                    accuracy = 100 * rows.loc[selected, "train_accuracy"].to_numpy(dtype=float)
                    _draw_strip(axes, index, accuracy, styles[family]["color"])
        panels[0].set_yticks(range(len(families)), names)
        panels[0].set_ylim(len(families) - 0.5, -0.5)
        style.label_outer(panels, "train accuracy (%)", "")
        share_legend(figure, LEGEND, note)
        return figure


def partitions(named: pd.DataFrame, partition: pd.DataFrame) -> "Figure | None":
    """Return a figure with a panel per condition: clients by classes, bubbles with areas proportional to examples.

    `partition` has `run`, `client`, `class` (its index), `class_name` and `examples`, one row per class that a client
    holds. The first run with the smallest seed is drawn.
    """
    rows = joined(named, partition)
    rows = rows[rows["examples"] > 0]
    if rows.empty:
        return None
    seed = int(named.loc[rows["run"].astype(str).unique(), "seed"].min())
    of_seed = rows[rows["run"].astype(str).map(named["seed"]) == seed]
    conditions = present(of_seed["condition"])
    firsts = {c: _first_run(of_seed[of_seed["condition"] == c]) for c in conditions}
    largest = max(int(first["examples"].max()) for first in firsts.values())
    names = of_seed.groupby("class")["class_name"].first().astype(str).head(MAX_BUBBLE_ROWS)
    clients = sorted(of_seed["client"].unique())
    titles = [", ".join(filter(None, [condition, f"seed {seed}"])) for condition in conditions]
    with style.new_figure(*style.size_of(len(conditions), 0.8 + 0.19 * len(names))) as figure:
        panels = style.panels(figure, titles, sharex=True, sharey=True)
        width = 0.8 * figure.get_figwidth() / style.columns_of(len(conditions))
        diameter = min(13.0, 90 * width / min(len(clients), MAX_BUBBLE_ROWS))
        for axes, first in zip(panels, firsts.values(), strict=True):
            drawn = first[first["client"].isin(clients[:MAX_BUBBLE_ROWS]) & first["class"].isin(names.index)]
            _draw_bubbles(axes, drawn, list(names.index), diameter**2 / largest)
        panels[0].set_yticks(range(len(names)), list(map(style.short, names)))
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        _label_clients(panels[0], clients[:MAX_BUBBLE_ROWS])
        style.label_outer(panels, _axis_label("client", len(clients)), _axis_label("class", rows["class"].nunique()))
        bubbles, counts = _bubble_legend(largest, diameter)
        figure.legend(
            bubbles, counts, loc="outside upper left", ncols=4, fontsize=8, title="examples", title_fontsize=8,
            alignment="left",
        )  # fmt: skip
        return figure


LEGEND: dict[str, dict[str, Any]] = {
    "a client": {"color": style.FAINT_COLOR, "linestyle": "", "marker": "o", "markersize": 3.5},
    "median": {"color": style.TEXT_COLOR, "linestyle": "", "marker": "|", "markersize": 9, "markeredgewidth": 1.8},
    "middle half": {"color": style.FAINT_COLOR, "linestyle": "-", "linewidth": 7, "alpha": 0.45},
}


def _wrapped(family: str) -> str:
    """A family's label; a long one with the teacher on separate lines."""
    algorithm, comma, teacher = family.partition(", ")
    return family if len(family) <= 28 or not comma else f"{algorithm},\n{fill(teacher, 28)}"


def _draw_strip(axes: "Axes", row: int, accuracy: npt.NDArray[np.float64], color: str) -> None:
    """Draw a bar between the quartiles, the median, and a dot per client at scattered heights."""
    lower, median, upper = np.percentile(accuracy, [25, 50, 75])
    axes.plot([lower, upper], [row, row], color=color, alpha=0.3, linewidth=11, solid_capstyle="butt")
    heights = row + 0.56 * (np.arange(len(accuracy)) * 0.6180339887 % 1 - 0.5)  # golden ratio: evenly scattered
    size = 14 if len(accuracy) <= 60 else 5
    axes.scatter(accuracy, heights, s=size, color=color, alpha=0.75, linewidths=0)
    axes.plot(median, row, color=style.TEXT_COLOR, marker="|", markersize=13, markeredgewidth=1.8)


def _first_run(rows: pd.DataFrame) -> pd.DataFrame:
    first: pd.DataFrame = rows[rows["run"] == rows["run"].iloc[0]]
    return first


def _draw_bubbles(axes: "Axes", rows: pd.DataFrame, classes: list[float], scale: float) -> None:
    """Draw a bubble of `scale` square points per example."""
    axes.grid(visible=False)
    heights = [classes.index(label) for label in rows["class"]]
    axes.scatter(rows["client"], heights, s=scale * rows["examples"], color=style.NEUTRAL_COLOR, linewidths=0)


def _label_clients(axes: "Axes", clients: list[float]) -> None:
    step = -(-len(clients) // 10)
    axes.set_xlim(clients[0] - 0.6, clients[-1] + 0.6)
    axes.set_xticks(clients[::step], [f"{client:g}" for client in clients[::step]])


def _axis_label(noun: str, count: int) -> str:
    return noun if count <= MAX_BUBBLE_ROWS else f"{noun} (the first {MAX_BUBBLE_ROWS} of {count})"


def _bubble_legend(largest: int, diameter: float) -> tuple[list[Any], list[str]]:
    """Legend entries of about a tenth, a third and all of the largest count, rounded."""
    from matplotlib.lines import Line2D

    counts = sorted({_rounded(largest * share) for share in (0.1, 0.33, 1.0)})
    marker: dict[str, Any] = {"linestyle": "", "marker": "o", "color": style.NEUTRAL_COLOR, "markeredgewidth": 0}
    bubbles = [Line2D([], [], **marker, markersize=diameter * (count / largest) ** 0.5) for count in counts]
    return bubbles, [f"{count:,}" for count in counts]


def _rounded(value: float) -> int:
    """The value with one significant digit."""
    return max(1, int(float(f"{value:.0e}")))
