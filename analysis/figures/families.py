"""Families of settings in figures: which ones are drawn, their styles, and the legend."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHARACTER_INCHES = 0.068
"""Width of a character of a legend."""
MAX_FAMILIES = 3
"""Maximum number of families of one algorithm in a figure: more would look alike."""


def styles_of(named: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the line style of each family. Families that `chosen` selects come first, so that they differ most."""
    algorithms = dict(zip(named["family"].astype(str), named["algorithm"], strict=True))
    best = _best_families(named)
    order = sorted(present(named["family"]), key=lambda family: family not in best)
    return style.styles([(family, algorithms[family]) for family in order])


def present(labels: "pd.Series[Any]") -> list[str]:
    """Return the categories that occur, in their order."""
    occurring = set(labels.astype(str))
    return [str(label) for label in labels.cat.categories if label in occurring]


def chosen(named: pd.DataFrame, max_families: int = MAX_FAMILIES) -> tuple[pd.DataFrame, str]:
    """Return the runs of each algorithm's most accurate families, and a note if some families are left out."""
    families = _best_families(named, max_families)
    others = named["family"].nunique() - len(families)
    note = f"the {max_families} most accurate teachers of each algorithm; {others} more are not shown" if others else ""
    return named[named["family"].isin(families)], note


def _best_families(named: pd.DataFrame, max_families: int = MAX_FAMILIES) -> set[str]:
    """The families of each algorithm whose best settings have the highest mean of `last` over conditions."""
    labels = ["algorithm", "family", "setting"]
    means = named.groupby([*labels, "condition"], observed=True)["last"].mean().groupby(labels, observed=True).mean()
    scores = means.groupby(labels[:2], observed=True).max().fillna(-1)
    ranks = scores.groupby("algorithm").rank(ascending=False, method="first")
    return set(ranks.index.get_level_values("family")[ranks <= max_families].astype(str))


def joined(named: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table's rows of these runs with `family` and `condition`, as categories in the order of `named`."""
    rows = table[table["run"].isin(named.index)]
    runs = rows["run"].astype(str)
    labels = {
        label: pd.Categorical(runs.map(named[label].astype(str)), named[label].cat.categories, ordered=True)
        for label in ("family", "condition")
    }
    return rows.assign(**labels)


def share_legend(
    figure: "Figure", styles: Mapping[str, Mapping[str, Any]], note: str = "", more: "Mapping[str, Any] | None" = None
) -> None:
    """Add one legend for all panels above them: an entry per style, the handles in `more`, and the note as title."""
    from matplotlib.lines import Line2D

    lines = {label: Line2D([], [], **{"linewidth": 1.8, "markersize": 5, **line}) for label, line in styles.items()}
    handles = {**lines, **(more or {})}
    figure.legend(
        list(handles.values()), list(handles), loc="outside upper left", fontsize=8,
        ncols=_column_count([len(label) for label in handles], figure.get_figwidth()),
        title=fill(note, int(figure.get_figwidth() / CHARACTER_INCHES)) or None, title_fontsize=8, alignment="left",
    )  # fmt: skip


def _column_count(lengths: Sequence[int], width: float) -> int:
    """The largest number of columns of labels with these lengths that fits into `width` inches."""
    for count in range(len(lengths), 1, -1):
        columns = np.array_split(np.asarray(lengths), count)  # as matplotlib does
        if sum(CHARACTER_INCHES * column.max() + 0.68 for column in columns) <= width:
            return count
    return 1
