"""What accuracy costs: operations, bytes, seconds."""

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
    "client_flops": ("operations to train clients' models", "flop"),
    "teacher_flops": ("operations of the teachers", "flop"),
    "bytes": ("sent between driver and clients", "B"),
    "seconds": ("time of all rounds", "s"),
}
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
SAME = 0.01
"""Costs that differ by less than this share of the largest are the same."""
BESIDE = 2
LABELLED = 12
"""Of more points, only those of the front are named."""


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    text: str
    color: str


def pareto(table: pd.DataFrame) -> "Figure | None":
    """A panel per cost that differs among settings: accuracy against it, and the front of what nothing beats in both.

    `table` is `tables.costs` of named runs with what they `spent`: `setting`, `condition`, `last` (a share) and any
    of `client_flops`, `teacher_flops`, `bytes`, `seconds`. Means over the conditions that most settings share; a
    setting that lacks one of them, or a cost, is left out.
    """
    points, conditions = _averaged(table)
    costs = {cost: points[[cost, "last"]].dropna() for cost in COSTS if cost in points}
    drawn = [cost for cost, own in costs.items() if _differ(own[cost])]
    if not drawn:
        return None
    with style.new_figure(*style.size_of(len(drawn), 3.1, BESIDE)) as figure:
        panels = style.panels(figure, [""] * len(drawn), BESIDE, sharey=True)
        for axes, cost in zip(panels, drawn, strict=True):
            _draw(axes, cost, costs[cost])
            axes.set_ylabel(style.ACCURACY if axes.get_subplotspec().is_first_col() else "")  # type: ignore[union-attr]
        found = list(dict.fromkeys(map(_algorithm, points.index)))
        algorithms = [name for name in style.COLORS if name in found] + [a for a in found if a not in style.COLORS]
        looks = {name: {"color": style.color(name), "linestyle": "", "marker": "o"} for name in algorithms}
        line = any(len(front_of(costs[cost], cost)) > 1 for cost in drawn)
        front = {"Pareto front": {"color": style.FAINT_COLOR, "linestyle": "-"}} if line else {}
        means = f"means over {', '.join(conditions)}" if len(conditions) > 1 else ""
        share_legend(figure, looks | front, "; ".join(filter(None, [means, _same_for_all(costs)])))
        figure.draw_without_rendering()  # labels are put where there is room, once the panels have their sizes
        for axes, cost in zip(panels, drawn, strict=True):
            _label(axes, cost, costs[cost])
        return figure


def front_of(points: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The points that no other beats in both `cost` (less) and `last` (more), by cost."""
    ordered = points.sort_values([cost, "last"], ascending=[True, False], kind="stable")
    before = ordered["last"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["last"] > before]


def _averaged(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Per setting, means over the conditions that most settings have, and which these are."""
    known = table.dropna(subset="last")
    settings = known.groupby("condition", observed=True)["setting"].nunique()
    shared = settings.index[settings == settings.max()]
    own = known[known["condition"].isin(shared)]
    grouped = own.groupby("setting", observed=True)
    complete = grouped["condition"].nunique() == len(shared)
    columns = ["last", *(cost for cost in COSTS if cost in own)]
    return grouped[columns].mean()[complete], list(map(str, shared))


def _differ(costs: "pd.Series[float]") -> bool:
    return len(costs) > 1 and float(np.ptp(costs)) > SAME * float(costs.max())


def _same_for_all(costs: dict[str, pd.DataFrame]) -> str:
    """What is not drawn, and why: `the same for all: sent between driver and clients 1.2 GB`."""
    same = []
    for cost, own in costs.items():
        if len(own) and own[cost].max() > 0 and not _differ(own[cost]):
            unit, factor = _unit(cost, own[cost])
            same.append(f"{COSTS[cost][0]} {own[cost].mean() / factor:.3g} {unit}")
    return f"the same for all: {', '.join(same)}" if same else ""


def _algorithm(setting: Any) -> str:
    return str(setting).partition(", ")[0]


def _unit(cost: str, costs: "pd.Series[float]") -> tuple[str, float]:
    """The unit in which the middle of costs is neither tiny nor huge, and what it is of the base unit."""
    middle = float(costs[costs > 0].median())
    _, unit = COSTS[cost]
    if unit == "s":
        return ("h", 3600.0) if middle > 7200 else ("min", 60.0) if middle > 120 else ("s", 1.0)
    place = min(max(int(np.log10(middle) // 3), 0), len(PREFIXES) - 1)
    return f"{PREFIXES[place]}{unit}", 1000.0**place


def _draw(axes: "Axes", cost: str, own: pd.DataFrame) -> None:
    unit, factor = _unit(cost, own[cost])
    x, y = own[cost] / factor, 100 * own["last"]
    front = front_of(own, cost)
    axes.plot(
        front[cost] / factor,
        100 * front["last"],
        color=style.FAINT_COLOR,
        drawstyle="steps-post",
        linewidth=1.4,
        zorder=1,
    )
    axes.scatter(x, y, color=[style.color(_algorithm(setting)) for setting in own.index], s=28, zorder=2, linewidths=0)
    axes.set_xlabel(f"{COSTS[cost][0]} ({unit})")
    _scale(axes, x)
    axes.margins(x=0.16, y=0.12)


def _scale(axes: "Axes", costs: "pd.Series[float]") -> None:
    """Logarithmic where costs span more than a power of ten; nothing has its place left of the smallest then."""
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


def _label(axes: "Axes", cost: str, own: pd.DataFrame) -> None:
    """The front's points by name, and of the others as many as have room."""
    _, factor = _unit(cost, own[cost])
    front = front_of(own, cost)
    others = own.drop(front.index).sort_values("last", ascending=False)
    order = [*front.index, *others.index]
    places = own.loc[order, [cost, "last"]].to_numpy(dtype=float) * (1 / factor, 100)
    labels = [
        _Label(x, y, str(setting).removeprefix(f"{_algorithm(setting)}, "), style.color(_algorithm(setting)))
        for setting, (x, y) in zip(order, places.tolist(), strict=True)
    ]
    _put_labels(axes, labels, len(front))


def _put_labels(axes: "Axes", labels: Sequence[_Label], front: int) -> None:
    """Write each beside its point where it touches nothing; the first so many, which are the front's, in any case."""
    from matplotlib.transforms import Bbox

    scale = axes.figure.dpi / 72
    points = axes.transData.transform([(label.x, label.y) for label in labels])
    taken = [Bbox.from_bounds(x - 3 * scale, y - 3 * scale, 6 * scale, 6 * scale) for x, y in points]
    steps = [corner for (x, y), (after, _) in pairwise(points[:front]) for corner in ((x, y), (after, y))]
    steps += [tuple(points[front - 1])]
    taken += [Bbox([np.minimum(a, b) - 1, np.maximum(a, b) + 1]) for a, b in pairwise(steps)]
    room = axes.get_window_extent()
    for place, (label, (x, y)) in enumerate(zip(labels[: max(front, LABELLED)], points, strict=False)):
        width, height = 4.5 * scale * len(label.text), 9 * scale
        inside = [spot for spot in _places(x, y, width, height, scale) if _within(spot[0], room)]
        free = [spot for spot in inside if not any(spot[0].overlaps(other) for other in taken)]
        if not free and (place >= front or not inside):
            continue
        box, at, align = (free or inside)[0]
        taken.append(box)
        axes.annotate(
            label.text, (label.x, label.y), xytext=at, textcoords="offset points", color=label.color, fontsize=7.5,
            ha=align, va="center",
        ).set_in_layout(False)  # fmt: skip


def _within(box: "Bbox", room: "Bbox") -> bool:
    return bool(room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1)


def _places(
    x: float, y: float, width: float, height: float, scale: float
) -> Iterator[tuple["Bbox", tuple[float, float], str]]:
    """Boxes (pixels) of a text around a point, with the offset (points) and alignment that put it there."""
    from matplotlib.transforms import Bbox

    for up in (0, 9, -9, 18, -18):
        for align, left in (("left", 6 * scale), ("right", -6 * scale - width)):
            at = (6.0 if align == "left" else -6.0, float(up))
            yield Bbox.from_bounds(x + left, y + up * scale - height / 2, width, height), at, align
        if up:
            yield (
                Bbox.from_bounds(x - width / 2, y + up * scale - height / 2, width, height),
                (0.0, float(up)),
                "center",
            )
