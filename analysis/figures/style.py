"""How figures look: one colour per algorithm everywhere, readable without colour vision, on light and on dark."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"FedAvg": "#0072B2", "FedProx": "#D55E00", "FML": "#B5649A", "Fed-LPFM": "#009E73"}
OTHER_COLORS = ("#8C6D1F", "#5B6ABF", "#7A7A7A", "#A0522D")
"""After Okabe and Ito's palette (jfly.uni-koeln.de/color), without its yellow and black, which one ground swallows."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")
TEXT_COLOR = "#202124"
"""Text and axes. A report in a dark window shows it light, so nothing else may have this colour."""
FAINT_COLOR = "#9aa0a6"
NEUTRAL_COLOR = OTHER_COLORS[1]
"""What is of no algorithm: examples, confusions."""
ACCURACY = "accuracy, mean of last rounds (%)"
SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "fedray", "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": TEXT_COLOR, "text.color": TEXT_COLOR,
    "axes.labelcolor": TEXT_COLOR, "xtick.color": TEXT_COLOR, "ytick.color": TEXT_COLOR, "axes.axisbelow": True,
    "axes.facecolor": "none", "text.parse_math": False, "legend.frameon": False, "axes.linewidth": 0.8,
}  # fmt: skip
PANELS = 3
"""How many panels stand beside each other at most."""
LETTERS = 24
"""How much of a class's name is written beside an axis."""
WIDTH = 9.0
"""Inches that a figure of several panels is wide."""


def color(algorithm: str) -> str:
    """An algorithm's own; one that is not known here gets one of the others, by its name."""
    return COLORS.get(algorithm) or OTHER_COLORS[sum(algorithm.encode()) % len(OTHER_COLORS)]


def styles(families: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each (family, algorithm): those of one colour differ in dash and marker."""
    seen: dict[str, int] = {}
    found: dict[str, dict[str, Any]] = {}
    for family, algorithm in families:
        ink = color(algorithm)
        place = seen[ink] = seen.get(ink, -1) + 1
        dash, marker = DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)]
        found[family] = {"color": ink, "linestyle": dash, "marker": marker}
    return found


def text_color_on(ground: "Sequence[float] | npt.NDArray[np.float64]") -> str:
    """Black or white, whichever stands out more on red, green and blue from 0 to 1 (contrast as WCAG 2 has it)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in ground[:3]]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


@contextmanager
def new_figure(width: float, height: float) -> Iterator["Figure"]:
    """A figure of so many inches, drawn in the style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        yield Figure(figsize=(width, height), layout="constrained")


def beside(count: int, most: int = PANELS) -> int:
    """How many of so many panels stand beside each other: as few as fill as many rows."""
    return -(-count // -(-count // most))


def size_of(count: int, panel_height: float = 2.7, most: int = PANELS) -> tuple[float, float]:
    """The inches that so many panels take."""
    return (7.2 if count == 1 else WIDTH), panel_height * -(-count // most) + 0.3


def panels(figure: "Figure", titles: Sequence[str], most: int = PANELS, **shared: Any) -> list["Axes"]:
    """An axes for each title, at most so many beside each other."""
    columns = beside(len(titles), most)
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
    """A long name's beginning and end, on one line."""
    name = " ".join(name.split())
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 9]}…{name[-8:]}"


def label_outer(axes: Sequence["Axes"], x: str, y: str) -> None:
    """What panels share is said once: below the lowest of each column, and left of the first of each row."""
    for panel in _lowest(axes):
        panel.set_xlabel(x)
    for panel in axes:
        if panel.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            panel.set_ylabel(y)


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) right of where curves end, moved apart where they would touch."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[1])
    for (x, y, text, ink), at in zip(ends, _apart([end[1] for end in ends], low, high), strict=True):
        axes.annotate(
            text, (x, y), xytext=(8, at), textcoords=("offset points", "data"), color=ink, va="center", fontsize=8,
            annotation_clip=False,
        )  # fmt: skip


def _apart(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Rising values moved so that all lie between the limits, a line of text from each other (or as far as may be)."""
    gap = min(0.055 * (high - low), (high - low) / max(len(wanted) - 1, 1))
    placed: list[float] = []
    for value in wanted:
        placed.append(max(value, placed[-1] + gap) if placed else value)
    ceiling = high
    for place in range(len(placed) - 1, -1, -1):
        placed[place] = min(placed[place], ceiling)
        ceiling = placed[place] - gap
    return placed


def _lowest(axes: Sequence["Axes"]) -> list["Axes"]:
    """The last panel of each column."""
    return list({panel.get_subplotspec().colspan.start: panel for panel in axes}.values())  # type: ignore[union-attr]
