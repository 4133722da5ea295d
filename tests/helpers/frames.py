"""Runs for tests of figures, and the content of a figure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from analysis.labels import name_runs


def named(*runs: Mapping[str, Any]) -> pd.DataFrame:
    """Return labelled runs `a`, `b`, ... with `strategy`, `seed`, `alpha`, `lam`, `teacher`, `last` and `k`."""
    rows = [
        {
            "seed": run.get("seed", 0),
            "strategy.name": run["strategy"],
            "strategy.lam": run.get("lam", np.nan),
            "partition.kind": "dirichlet",
            "partition.alpha": run.get("alpha", 0.1),
            **run.get("spec", {"teacher.kind": "zero_shot", "teacher.model": run.get("teacher", "ViT-B-32")}),
        }
        for run in runs
    ]
    names = [letters(place) for place in range(len(runs))]
    table = name_runs(pd.DataFrame(rows, index=pd.Index(names, name="run")))
    return table.assign(last=[run.get("last", 0.5) for run in runs], k=[run.get("k", 5) for run in runs])


def letters(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else f"{letters(place // 26 - 1)}{letters(place % 26)}"


def rows(columns: Sequence[str], *cells: Sequence[Any]) -> pd.DataFrame:
    """Return a table with a categorical `run`, like tables from files."""
    return pd.DataFrame(list(cells), columns=list(columns)).astype({"run": "category"})


def checked(figure: Figure | None) -> Figure:
    """Draw a figure and returns it. Fails if something is outside of it or if two texts overlap."""
    assert figure is not None
    figure.savefig(BytesIO(), format="svg")
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 < width + 0.02
    assert box.y1 < height + 0.02
    boxes = [(text.get_text(), text.get_window_extent()) for text in _written(figure)]
    overlapping = [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if _overlap(one, other)]
    assert overlapping == []
    return figure


def _written(figure: Figure) -> Iterator[Text]:
    """Yield every visible text; matplotlib also has labels of ticks beyond the limits."""
    for box in figure.legends:
        yield from (box.get_title(), *box.get_texts())
    for axes in figure.axes:
        yield from axes.texts
        if axes.axison:
            yield from (axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label)
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)


def _overlap(one: Bbox, other: Bbox) -> bool:
    """True if two texts overlap by more than the margin around characters, in pixels."""
    across, down = (min(one.max[axis], other.max[axis]) - max(one.min[axis], other.min[axis]) for axis in (0, 1))
    return bool(min(one.width, other.width) > 1 and across > 1.5 and down > 2.5)


def panels(figure: Figure) -> list[Axes]:
    """Return the axes with data: no colour bars."""
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title("left") for axes in panels(figure)]


def labels(figure: Figure) -> set[str]:
    """Return the labels of all axes."""
    return {text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def note(figure: Figure) -> str:
    return " ".join(figure.legends[0].get_title().get_text().split())  # joins its lines


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def lines(axes: Axes, color: str) -> list[list[tuple[float, float]]]:
    """Return the points of each line of a colour, without NaN."""
    selected = [line for line in axes.lines if to_hex(line.get_color()) == color.lower()]
    return [[(x, y) for x, y in zip(*line.get_data(), strict=True) if y == y] for line in selected]


def rounded(points: Iterable[Iterable[float]]) -> list[tuple[float, ...]]:
    return [tuple(round(float(value), 6) for value in point) for point in points]
