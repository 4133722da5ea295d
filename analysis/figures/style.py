"""How figures look: one colour per algorithm everywhere, readable without colour vision, on light and on dark."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"FedAvg": "#0072B2", "FedProx": "#D55E00", "FML": "#B5649A", "Fed-LPFM": "#009E73"}
OTHERS = ("#8C6D1F", "#5B6ABF", "#7A7A7A", "#A0522D")
"""After Okabe and Ito's palette (jfly.uni-koeln.de/color), without its yellow and black, which one ground swallows."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")
INK = "#202124"
"""Text and axes. A report in a dark window shows it light, so nothing else may have this colour."""
FAINT = "#9aa0a6"
SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "fedray", "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "text.color": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.axisbelow": True,
    "axes.facecolor": "none", "legend.frameon": False, "axes.linewidth": 0.8,
}  # fmt: skip
PANELS = 3
"""How many panels stand beside each other."""


def color(algorithm: str) -> str:
    """An algorithm's own; one that is not known here gets one of the others, by its name."""
    return COLORS.get(algorithm) or OTHERS[sum(algorithm.encode()) % len(OTHERS)]


def looks(families: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each (family, algorithm): those of an algorithm differ in dash and marker."""
    seen: dict[str, int] = {}
    found: dict[str, dict[str, Any]] = {}
    for family, algorithm in families:
        place = seen[algorithm] = seen.get(algorithm, -1) + 1
        dash, marker = DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)]
        found[family] = {"color": color(algorithm), "linestyle": dash, "marker": marker}
    return found


@contextmanager
def drawn(width: float, height: float) -> Iterator["Figure"]:
    """A figure of so many inches, drawn in the style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        yield Figure(figsize=(width, height), layout="constrained")


def panels(figure: "Figure", titles: Sequence[str], **shared: Any) -> list["Axes"]:
    """An axes for each title, at most `PANELS` beside each other."""
    columns = min(len(titles), PANELS)
    grid = figure.subplots(-(-len(titles) // columns), columns, squeeze=False, **shared)
    for axes in list(grid.flat)[len(titles) :]:
        axes.set_axis_off()
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, loc="left")
        axes.grid(axis="y", color=FAINT, alpha=0.35, linewidth=0.6)
        axes.tick_params(length=3)
    return list(grid.flat)[: len(titles)]


def size_of(count: int, panel_height: float = 2.7) -> tuple[float, float]:
    """The inches that so many panels take."""
    return (7.2 if count == 1 else 9.0, panel_height * -(-count // PANELS) + 0.3)


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) right of where curves end, moved apart where they would touch."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.065
    last = low - gap
    placed = []
    for x, y, text, ink in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + gap)
        placed.append((x, y, last, text, ink))
    excess = max(0.0, last - high)
    for x, y, at, text, ink in placed:
        axes.annotate(
            text, (x, y), xytext=(6, at - excess if at > y else y), textcoords=("offset points", "data"),
            color=ink, va="center", fontsize=8, annotation_clip=False,
        )  # fmt: skip
