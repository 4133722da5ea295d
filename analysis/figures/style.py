"""Style of figures: one colour per algorithm, readable without colour vision, on light and on dark backgrounds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from analysis.distillation import SUFFIX
from analysis.outcomes import averaged_rounds
from fedray.strategies import STRATEGIES
from fedray.strategies.base import Strategy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {strategy.label: strategy.color for strategy in STRATEGIES.values()}
"""Colours of the built-in strategies, by label."""
OTHER_COLORS = ("#8C6D1F", "#5B6ABF", "#7A7A7A", "#A0522D")
"""Colours of other categories, after Okabe and Ito's palette (jfly.uni-koeln.de/color) without yellow and black, which
have too little contrast on one of the backgrounds."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")
TEXT_COLOR = "#202124"
"""Text and axes. A report in dark mode replaces this colour by a light one, so nothing else may have it."""
FAINT_COLOR = "#9aa0a6"
NEUTRAL_COLOR = OTHER_COLORS[1]
"""Marks that belong to no algorithm, such as bubbles of examples."""
SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "fedray", "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": TEXT_COLOR, "text.color": TEXT_COLOR,
    "axes.labelcolor": TEXT_COLOR, "xtick.color": TEXT_COLOR, "ytick.color": TEXT_COLOR, "axes.axisbelow": True,
    "axes.facecolor": "none", "text.parse_math": False, "legend.frameon": False, "axes.linewidth": 0.8,
}  # fmt: skip
MAX_COLUMNS = 3
"""Maximum number of panels in a row."""
MAX_TICK_CHARACTERS = 24
"""Maximum length of a class name at an axis."""
WIDTH_INCHES = 9.0
"""Width of a figure with several panels."""
SINGLE_WIDTH_INCHES = 7.2


def color(algorithm: str) -> str:
    """Return the colour of an algorithm's strategy class, with or without a teacher; a neutral one if it is unknown."""
    return COLORS.get(algorithm.removesuffix(SUFFIX), Strategy.color)


def styles(families: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Return colour, dashes and marker of each (family, algorithm); equal colours differ in dashes and marker."""
    counts: dict[str, int] = {}
    by_family: dict[str, dict[str, Any]] = {}
    for family, algorithm in families:
        family_color = color(algorithm)
        index = counts[family_color] = counts.get(family_color, -1) + 1
        dashes, marker = DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]
        by_family[family] = {"color": family_color, "linestyle": dashes, "marker": marker}
    return by_family


def text_color_on(background: "Sequence[float] | npt.NDArray[np.float64]") -> str:
    """Return black or white, the one with more contrast (WCAG 2) to red, green and blue from 0 to 1."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


@contextmanager
def new_figure(width: float, height: float) -> Iterator["Figure"]:
    """Yield a figure of this size in inches. The style applies within the context."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        yield Figure(figsize=(width, height), layout="constrained")


def columns_of(count: int, max_columns: int = MAX_COLUMNS) -> int:
    """Return the number of columns of `count` panels: the smallest one that needs no further row."""
    return -(-count // -(-count // max_columns))


def size_of(count: int, panel_height: float = 2.7, max_columns: int = MAX_COLUMNS) -> tuple[float, float]:
    """Return width and height in inches of a figure with `count` panels."""
    return (SINGLE_WIDTH_INCHES if count == 1 else WIDTH_INCHES), panel_height * -(-count // max_columns) + 0.3


def panels(figure: "Figure", titles: Sequence[str], max_columns: int = MAX_COLUMNS, **shared: Any) -> list["Axes"]:
    """Add axes with these titles to the figure and returns them. `shared`: `sharex`, `sharey`."""
    columns = columns_of(len(titles), max_columns)
    grid = figure.subplots(-(-len(titles) // columns), columns, squeeze=False, **shared)
    for axes in list(grid.flat)[len(titles) :]:
        axes.set_axis_off()
    used = list(grid.flat)[: len(titles)]
    for axes, title in zip(used, titles, strict=True):
        axes.set_title(title, loc="left")
        axes.grid(axis="y", color=FAINT_COLOR, alpha=0.35, linewidth=0.6)
        axes.tick_params(length=3)
    for axes in _lowest(used):
        axes.tick_params(labelbottom=True)
    return used


def short(name: str) -> str:
    """Return a name on one line; a long one without its middle."""
    name = " ".join(name.split())
    return name if len(name) <= MAX_TICK_CHARACTERS else f"{name[: MAX_TICK_CHARACTERS - 9]}…{name[-8:]}"


def accuracy_label(k: "pd.Series[int]") -> str:
    """Return the label of an axis of `last`, from the number of averaged rounds of each run."""
    return f"mean accuracy, last {averaged_rounds(k)} rounds (%)"


def label_outer(axes: Sequence["Axes"], x: str, y: str) -> None:
    """Labels the shared axes once: x below the lowest panel of each column, y at the first panel of each row."""
    for panel in _lowest(axes):
        panel.set_xlabel(x)
    for panel in axes:
        if panel.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            panel.set_ylabel(y)


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) at the right end of curves; texts that would overlap are moved apart."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[1])
    heights = _spread([end[1] for end in ends], low, high)
    for (x, y, text, text_color), height in zip(ends, heights, strict=True):
        axes.annotate(
            text, (x, y), xytext=(8, height), textcoords=("offset points", "data"), color=text_color, va="center",
            fontsize=8, annotation_clip=False,
        )  # fmt: skip


def _spread(values: Sequence[float], low: float, high: float) -> list[float]:
    """Moves ascending values between the limits, if possible with a line of text between two of them."""
    gap = min(0.055 * (high - low), (high - low) / max(len(values) - 1, 1))
    spread: list[float] = []
    for value in values:
        spread.append(max(value, spread[-1] + gap) if spread else value)
    ceiling = high
    for index in range(len(spread) - 1, -1, -1):
        spread[index] = min(spread[index], ceiling)
        ceiling = spread[index] - gap
    return spread


def _lowest(axes: Sequence["Axes"]) -> list["Axes"]:
    """The last panel of each column."""
    return list({panel.get_subplotspec().colspan.start: panel for panel in axes}.values())  # type: ignore[union-attr]
