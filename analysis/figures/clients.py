"""How clients fare, and who holds what."""

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

SHOWN = 20
"""Of more clients, or classes, bubbles are drawn for the first ones only."""


def spread(named: pd.DataFrame, clients: pd.DataFrame) -> "Figure | None":
    """A panel per condition, a row per family: each client's accuracy on its own examples, median and quartiles.

    `named` should hold one setting per family. `clients` has `run`, `client` and `train_accuracy` of the last round (a
    share; NaN where the client failed). The clients of all seeds are drawn, a dot each.
    """
    shown, said = chosen(named)
    own = joined(shown, clients).dropna(subset="train_accuracy")
    if own.empty:
        return None
    looks = styles_of(named)
    conditions, families = present(own["condition"]), present(own["family"])
    names = [_on_lines(family) for family in families]
    row = max(0.36, *(0.08 + 0.16 * len(name.splitlines()) for name in names))
    with style.new_figure(*style.size_of(len(conditions), 0.65 + row * len(families))) as figure:
        panels = style.panels(figure, conditions, sharex=True, sharey=True)
        for axes, condition in zip(panels, conditions, strict=True):
            axes.grid(visible=False)
            axes.grid(axis="x", color=style.FAINT_COLOR, alpha=0.35, linewidth=0.6)
            here = own[own["condition"] == condition]
            for place, family in enumerate(families):
                accuracy = 100 * here.loc[here["family"] == family, "train_accuracy"].to_numpy(dtype=float)
                if len(accuracy):
                    _draw_strip(axes, place, accuracy, looks[family]["color"])
        panels[0].set_yticks(range(len(families)), names)
        panels[0].set_ylim(len(families) - 0.5, -0.5)
        style.label_outer(panels, "accuracy on own examples (%)", "")
        share_legend(figure, _KEY, said)
        return figure


def partitions(named: pd.DataFrame, partition: pd.DataFrame) -> "Figure | None":
    """A panel per condition: clients by classes, each bubble's area in proportion to the examples held.

    `partition` has `run`, `client`, `class` (its place), `name` and `examples`, a row for each class that a client
    holds. Of several seeds the smallest is drawn, of several runs of it the first.
    """
    own = joined(named, partition)
    own = own[own["examples"] > 0]
    if own.empty:
        return None
    seed = int(named.loc[own["run"].astype(str).unique(), "seed"].min())
    of_seed = own[own["run"].astype(str).map(named["seed"]) == seed]
    conditions = present(of_seed["condition"])
    firsts = {c: _first_run(of_seed[of_seed["condition"] == c]) for c in conditions}
    largest = max(int(first["examples"].max()) for first in firsts.values())
    names = of_seed.groupby("class")["class_name"].first().astype(str).head(SHOWN)
    clients = sorted(of_seed["client"].unique())
    titles = [", ".join(filter(None, [condition, f"seed {seed}"])) for condition in conditions]
    with style.new_figure(*style.size_of(len(conditions), 0.8 + 0.19 * len(names))) as figure:
        panels = style.panels(figure, titles, sharex=True, sharey=True)
        width = 0.8 * figure.get_figwidth() / style.beside(len(conditions))
        diameter = min(13.0, 90 * width / min(len(clients), SHOWN))
        for axes, first in zip(panels, firsts.values(), strict=True):
            seen = first[first["client"].isin(clients[:SHOWN]) & first["class"].isin(names.index)]
            _draw_bubbles(axes, seen, list(names.index), diameter**2 / largest)
        panels[0].set_yticks(range(len(names)), list(map(style.short, names)))
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        _label_clients(panels[0], clients[:SHOWN])
        style.label_outer(panels, _of("client", len(clients)), _of("class", own["class"].nunique()))
        bubbles, counts = _sizes(largest, diameter)
        figure.legend(
            bubbles, counts, loc="outside upper left", ncols=4, fontsize=8, title="examples", title_fontsize=8,
            alignment="left",
        )  # fmt: skip
        return figure


_KEY: dict[str, dict[str, Any]] = {
    "a client": {"color": style.FAINT_COLOR, "linestyle": "", "marker": "o", "markersize": 3.5},
    "median": {"color": style.TEXT_COLOR, "linestyle": "", "marker": "|", "markersize": 9, "markeredgewidth": 1.8},
    "middle half": {"color": style.FAINT_COLOR, "linestyle": "-", "linewidth": 7, "alpha": 0.45},
}


def _on_lines(family: str) -> str:
    """A long name with its teacher on lines of their own."""
    algorithm, comma, teacher = family.partition(", ")
    return family if len(family) <= 28 or not comma else f"{algorithm},\n{fill(teacher, 28)}"


def _draw_strip(axes: "Axes", row: int, accuracy: npt.NDArray[np.float64], color: str) -> None:
    """A bar from the lower to the upper quartile, the median, and the clients, scattered in height to be told apart."""
    lower, median, upper = np.percentile(accuracy, [25, 50, 75])
    axes.plot([lower, upper], [row, row], color=color, alpha=0.3, linewidth=11, solid_capstyle="butt")
    heights = row + 0.56 * (np.arange(len(accuracy)) * 0.6180339887 % 1 - 0.5)  # golden ratio: even, never in rows
    size = 14 if len(accuracy) <= 60 else 5
    axes.scatter(accuracy, heights, s=size, color=color, alpha=0.75, linewidths=0)
    axes.plot(median, row, color=style.TEXT_COLOR, marker="|", markersize=13, markeredgewidth=1.8)


def _first_run(own: pd.DataFrame) -> pd.DataFrame:
    first: pd.DataFrame = own[own["run"] == own["run"].iloc[0]]
    return first


def _draw_bubbles(axes: "Axes", held: pd.DataFrame, classes: list[float], scale: float) -> None:
    """Of `scale` square points an example."""
    axes.grid(visible=False)
    rows = [classes.index(label) for label in held["class"]]
    axes.scatter(held["client"], rows, s=scale * held["examples"], color=style.NEUTRAL_COLOR, linewidths=0)


def _label_clients(axes: "Axes", clients: list[float]) -> None:
    step = -(-len(clients) // 10)
    axes.set_xlim(clients[0] - 0.6, clients[-1] + 0.6)
    axes.set_xticks(clients[::step], [f"{client:g}" for client in clients[::step]])


def _of(what: str, count: int) -> str:
    return what if count <= SHOWN else f"{what} (the first {SHOWN} of {count})"


def _sizes(largest: int, diameter: float) -> tuple[list[Any], list[str]]:
    """Bubbles of about a tenth, a third and all of the largest, as round numbers, for a legend."""
    from matplotlib.lines import Line2D

    counts = sorted({_rounded(largest * share) for share in (0.1, 0.33, 1.0)})
    look: dict[str, Any] = {"linestyle": "", "marker": "o", "color": style.NEUTRAL_COLOR, "markeredgewidth": 0}
    bubbles = [Line2D([], [], **look, markersize=diameter * (count / largest) ** 0.5) for count in counts]
    return bubbles, [f"{count:,}" for count in counts]


def _rounded(value: float) -> int:
    """To one digit that counts."""
    return max(1, int(float(f"{value:.0e}")))
