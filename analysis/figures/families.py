"""Families of settings in figures: which are drawn, how each looks, and the legend that says so."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTER = 0.068
"""Inches that a letter of a legend takes."""
MOST = 3
"""How many families of one algorithm a figure can tell apart."""


def styles_of(named: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """How each family looks: those that are `chosen` first, so that they differ most."""
    algorithms = dict(zip(named["family"].astype(str), named["algorithm"], strict=True))
    order = sorted(present(named["family"]), key=lambda family: family not in _best(named))
    return style.styles([(family, algorithms[family]) for family in order])


def present(labels: "pd.Series[Any]") -> list[str]:
    """The categories that occur, in their order."""
    occurring = set(labels.astype(str))
    return [str(label) for label in labels.cat.categories if label in occurring]


def chosen(named: pd.DataFrame, most: int = MOST) -> tuple[pd.DataFrame, str]:
    """The runs of each algorithm's most accurate families, and a sentence on what is left out."""
    kept = _best(named, most)
    left = named["family"].nunique() - len(kept)
    said = f"the {most} most accurate teachers of each algorithm; {left} more are not shown" if left else ""
    return named[named["family"].isin(kept)], said


def _best(named: pd.DataFrame, most: int = MOST) -> set[str]:
    """By the best setting of a family, that is, by its mean of `last` over conditions."""
    labels = ["algorithm", "family", "setting"]
    means = named.groupby([*labels, "condition"], observed=True)["last"].mean().groupby(labels, observed=True).mean()
    scores = means.groupby(labels[:2], observed=True).max().fillna(-1)
    ranks = scores.groupby("algorithm").rank(ascending=False, method="first")
    return set(ranks.index.get_level_values("family")[ranks <= most].astype(str))


def joined(named: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """A table's rows with their run's `family` and `condition`, as ordered as they are in `named`."""
    own = table[table["run"].isin(named.index)]
    runs = own["run"].astype(str)
    labels = {
        label: pd.Categorical(runs.map(named[label].astype(str)), named[label].cat.categories, ordered=True)
        for label in ("family", "condition")
    }
    return own.assign(**labels)


def share_legend(
    figure: "Figure", looks: Mapping[str, Mapping[str, Any]], said: str = "", more: "Mapping[str, Any] | None" = None
) -> None:
    """One for all panels, above them: a line per look, whatever is in `more`, and a sentence."""
    from matplotlib.lines import Line2D

    handles = {family: Line2D([], [], **{"linewidth": 1.8, "markersize": 5, **look}) for family, look in looks.items()}
    handles |= more or {}
    figure.legend(
        list(handles.values()), list(handles), loc="outside upper left", fontsize=8,
        ncols=_columns([len(family) for family in handles], figure.get_figwidth()),
        title=fill(said, int(figure.get_figwidth() / LETTER)) or None, title_fontsize=8, alignment="left",
    )  # fmt: skip


def _columns(lengths: Sequence[int], width: float) -> int:
    """How many columns of labels, so many letters each, stand beside each other within so many inches."""
    for count in range(len(lengths), 1, -1):
        columns = np.array_split(np.asarray(lengths), count)  # as matplotlib does
        if sum(LETTER * column.max() + 0.68 for column in columns) <= width:
            return count
    return 1
