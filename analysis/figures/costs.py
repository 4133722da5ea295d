"""Figure of accuracy by cost: operations, bytes, seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.families import share_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

COSTS = {
    "client_flops": ("operations of the clients' training", "flop"),
    "teacher_flops": ("operations of the teachers", "flop"),
    "bytes": ("communication between server and clients", "B"),
    "seconds": ("time of all rounds", "s"),
}
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
MIN_DIFFERENCE = 0.01
"""Costs that differ by less than this share of the largest one count as equal."""
MAX_COLUMNS = 2
MAX_LABELS = 12
"""Maximum number of labelled points; points of the Pareto front are labelled first."""


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    text: str
    color: str


def pareto(table: pd.DataFrame, k: "pd.Series[int]") -> "Figure | None":
    """Return a figure with a panel per cost that differs between settings: accuracy by cost, and the Pareto front.

    `table` is the result of `tables.costs`: `setting`, `condition`, `last` (a share) and any of `client_flops`,
    `teacher_flops`, `bytes`, `seconds`. Points are means over the conditions that most settings share; a setting that
    lacks one of these, or a cost, is left out. `k`: the number of averaged rounds of each run.
    """
    points, conditions = _averaged(table)
    costs = {cost: points[[cost, "last"]].dropna() for cost in COSTS if cost in points}
    drawn = [cost for cost, rows in costs.items() if _differ(rows[cost])]
    if not drawn:
        return None
    with style.new_figure(*style.size_of(len(drawn), 3.1, MAX_COLUMNS)) as figure:
        panels = style.panels(figure, [""] * len(drawn), MAX_COLUMNS, sharey=True)
        for axes, cost in zip(panels, drawn, strict=True):
            _draw(axes, cost, costs[cost])
            axes.set_ylabel(style.accuracy_label(k) if axes.get_subplotspec().is_first_col() else "")  # type: ignore[union-attr]
        algorithms = sorted(set(map(_algorithm, points.index)), key=lambda name: [*style.COLORS, name].index(name))
        styles = {name: {"color": style.color(name), "linestyle": "", "marker": "o"} for name in algorithms}
        line = any(len(front_of(costs[cost], cost)) > 1 for cost in drawn)
        front = {"Pareto front": {"color": style.FAINT_COLOR, "linestyle": "-"}} if line else {}
        means = f"means over {', '.join(conditions)}" if len(conditions) > 1 else ""
        share_legend(figure, styles | front, "; ".join(filter(None, [means, _equal_costs(costs)])))
        figure.draw_without_rendering()  # fixes the sizes of the panels, on which the labels depend
        for axes, cost in zip(panels, drawn, strict=True):
            _label(axes, cost, costs[cost])
        return figure


def front_of(points: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Return the Pareto front, sorted by cost: no other point has a lower `cost` and a higher `last`."""
    ordered = points.sort_values([cost, "last"], ascending=[True, False], kind="stable")
    best_cheaper = ordered["last"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["last"] > best_cheaper]


def _averaged(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Means per setting over the conditions that most settings have, and these conditions."""
    known = table.dropna(subset="last")
    settings = known.groupby("condition", observed=True)["setting"].nunique()
    shared = settings.index[settings == settings.max()]
    rows = known[known["condition"].isin(shared)]
    grouped = rows.groupby("setting", observed=True)
    complete = grouped["condition"].nunique() == len(shared)
    columns = ["last", *(cost for cost in COSTS if cost in rows)]
    return grouped[columns].mean()[complete], list(map(str, shared))


def _differ(costs: "pd.Series[float]") -> bool:
    return len(costs) > 1 and float(np.ptp(costs)) > MIN_DIFFERENCE * float(costs.max())


def _equal_costs(costs: dict[str, pd.DataFrame]) -> str:
    """A note on the costs without a panel: `equal for all: time of all rounds 12 min`."""
    equal = []
    for cost, rows in costs.items():
        if len(rows) and rows[cost].max() > 0 and not _differ(rows[cost]):
            unit, factor = _unit(cost, rows[cost])
            equal.append(f"{COSTS[cost][0]} {rows[cost].mean() / factor:.3g} {unit}")
    return f"equal for all: {', '.join(equal)}" if equal else ""


def _algorithm(setting: Any) -> str:
    return str(setting).partition(", ")[0]


def _unit(cost: str, costs: "pd.Series[float]") -> tuple[str, float]:
    """A unit in which the median cost is from 1 to 1000, and its size in base units."""
    median = float(costs[costs > 0].median())
    _, unit = COSTS[cost]
    if unit == "s":
        return ("h", 3600.0) if median > 7200 else ("min", 60.0) if median > 120 else ("s", 1.0)
    power = min(max(int(np.log10(median) // 3), 0), len(PREFIXES) - 1)
    return f"{PREFIXES[power]}{unit}", 1000.0**power


def _draw(axes: "Axes", cost: str, points: pd.DataFrame) -> None:
    unit, factor = _unit(cost, points[cost])
    x, y = points[cost] / factor, 100 * points["last"]
    front = front_of(points, cost)
    line: dict[str, Any] = {"color": style.FAINT_COLOR, "drawstyle": "steps-post", "linewidth": 1.4, "zorder": 1}
    axes.plot(front[cost] / factor, 100 * front["last"], **line)
    axes.scatter(
        x, y, color=[style.color(_algorithm(setting)) for setting in points.index], s=28, zorder=2, linewidths=0
    )
    axes.set_xlabel(f"{COSTS[cost][0]} ({unit})")
    _scale(axes, x)
    axes.margins(x=0.16, y=0.12)


def _scale(axes: "Axes", costs: "pd.Series[float]") -> None:
    """Sets a logarithmic scale if costs span more than a factor of ten, with zero left of the smallest cost."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    positive = costs[costs > 0]
    if positive.max() < 10 * positive.min():
        return
    if len(positive) < len(costs):
        axes.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.4)
    else:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label(axes: "Axes", cost: str, points: pd.DataFrame) -> None:
    """Labels the points of the front, and other points where there is space."""
    _, factor = _unit(cost, points[cost])
    front = front_of(points, cost)
    others = points.drop(front.index).sort_values("last", ascending=False)
    order = [*front.index, *others.index]
    places = points.loc[order, [cost, "last"]].to_numpy(dtype=float) * (1 / factor, 100)
    labels = [
        _Label(x, y, str(setting).removeprefix(f"{_algorithm(setting)}, "), style.color(_algorithm(setting)))
        for setting, (x, y) in zip(order, places.tolist(), strict=True)
    ]
    _put_labels(axes, labels, len(front))


def _put_labels(axes: "Axes", labels: Sequence[_Label], front: int) -> None:
    """Write each label next to its point if it overlaps nothing; the first `front` labels in any case."""
    from matplotlib.transforms import Bbox

    scale = axes.figure.dpi / 72
    points = axes.transData.transform([(label.x, label.y) for label in labels])
    occupied = [Bbox.from_bounds(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale) for x, y in points]
    steps = [corner for (x, y), (after, _) in pairwise(points[:front]) for corner in ((x, y), (after, y))]
    steps += [tuple(points[front - 1])]
    occupied += [Bbox([np.minimum(a, b) - 1, np.maximum(a, b) + 1]) for a, b in pairwise(steps)]
    area = axes.get_window_extent()
    for index, (label, (x, y)) in enumerate(zip(labels[: max(front, MAX_LABELS)], points, strict=False)):
        width, height = 4.5 * scale * len(label.text), 9 * scale
        inside = [place for place in _places(x, y, width, height, scale) if _is_within(place[0], area)]
        free = [place for place in inside if not any(place[0].overlaps(other) for other in occupied)]
        if not free and (index >= front or not inside):
            continue
        box, offset, align = (free or inside)[0]
        occupied.append(box)
        axes.annotate(
            label.text, (label.x, label.y), xytext=offset, textcoords="offset points", color=label.color, fontsize=7.5,
            ha=align, va="center",
        ).set_in_layout(False)  # fmt: skip


def _is_within(box: "Bbox", area: "Bbox") -> bool:
    return bool(area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1)


def _places(
    x: float, y: float, width: float, height: float, scale: float
) -> Iterator[tuple["Bbox", tuple[float, float], str]]:
    """Yield boxes (pixels) for a text around a point, each with the text's offset (points) and alignment."""
    from matplotlib.transforms import Bbox

    for up in (0, 9, -9, 18, -18):
        for align, left in (("left", 6 * scale), ("right", -6 * scale - width)):
            offset = (6.0 if align == "left" else -6.0, float(up))
            yield Bbox.from_bounds(x + left, y + up * scale - height / 2, width, height), offset, align
        if up:
            box = Bbox.from_bounds(x - width / 2, y + up * scale - height / 2, width, height)
            yield box, (0.0, float(up)), "center"
