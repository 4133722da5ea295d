"""Figures of accuracy by class and of confusion matrices."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.families import chosen, joined, present, share_legend, styles_of
from fedray.training.metrics import RARE_CLASS_SHARE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 20
"""Maximum number of classes in a figure; of more, the worst and the best ones are drawn."""
MAX_CLASSES_WITH_NUMBERS = 12
"""Maximum number of classes of a confusion matrix with numbers in its cells."""
MAX_CLASS_NAMES = 30
"""Maximum number of class names along a confusion matrix."""


def accuracy_by_class(named: pd.DataFrame, classes: pd.DataFrame, partition: pd.DataFrame) -> "Figure | None":
    """Return a figure with a panel per condition, a row per class and a mark per family: final test accuracy.

    `named` should hold one setting per family; marks are means over its seeds. `classes` has `run`, `class`,
    `class_name` and `test_accuracy` (a share; NaN if the test set lacks the class), `partition` has `run`, `client`,
    `class` and `examples`. The number at the right is the share of clients for which the class is rare (under 5 % of
    the client's examples); a row is shaded if it is above one half.
    """
    shown, note = chosen(named)
    rows = joined(shown, classes).dropna(subset="test_accuracy")
    if rows.empty:
        return None
    names = rows.groupby("class")["class_name"].first().astype(str)
    drawn = _selected(rows.groupby("class")["test_accuracy"].mean())
    if len(drawn) < len(names):
        half = MAX_CLASSES // 2
        note = "; ".join(filter(None, [note, f"the {half} worst and {half} best of {len(names)} classes"]))
    labels = ["condition", "family", "class"]
    means = 100 * rows.groupby(labels, observed=True)["test_accuracy"].mean().unstack("class").reindex(columns=drawn)
    marks: dict[Any, pd.Series[float]] = dict(means.iterrows())
    rare: dict[Any, pd.Series[float]] = dict((100 * rare_for(joined(shown, partition))).iterrows())
    styles = {family: line | {"linestyle": ""} for family, line in styles_of(named).items()}
    conditions, families = present(rows["condition"]), present(rows["family"])
    with style.new_figure(*style.size_of(len(conditions), 0.7 + 0.2 * len(drawn))) as figure:
        panels = style.panels(figure, conditions, sharex=True, sharey=True)
        for axes, condition in zip(panels, conditions, strict=True):
            for index, family in enumerate(families):
                if (condition, family) in marks:
                    _draw_marks(axes, marks[condition, family], index, len(families), styles[family])
            axes.grid(visible=False)
            axes.grid(axis="x", color=style.FAINT_COLOR, alpha=0.35, linewidth=0.6)
            if condition in rare:
                _mark_rare(axes, rare[condition].reindex(drawn, fill_value=100.0))
            if len(drawn) < len(names):
                axes.axhline(MAX_CLASSES // 2 - 0.5, color=style.TEXT_COLOR, linewidth=0.8, linestyle=style.DASHES[2])
        panels[0].set_yticks(range(len(drawn)), list(map(style.short, names[drawn])))
        panels[0].set_ylim(len(drawn) - 0.5, -0.5)
        panels[0].set_xlim(-2, (1.28 if len(rare) else 1.05) * max(float(np.nanmax(means)), 10))
        panels[0].set_xticks([tick for tick in panels[0].get_xticks() if 0 <= tick <= 100])
        style.label_outer(panels, "test accuracy (%)", "class")
        share_legend(
            figure, {family: styles[family] for family in families}, note, _shade_legend() if len(rare) else None
        )
        return figure


def confusions(
    proxy: pd.DataFrame | None, teacher: pd.DataFrame | None, names: "Mapping[Any, str] | pd.Series[str]"
) -> "Figure | None":
    """Return a figure of the confusion matrices of the teacher (clients' examples) and of the proxy (test set).

    Both tables have `class`, `predicted_class` and `examples`, one row per pair that occurs; one may be empty or None.
    `names` maps a class to its name. Cells are in % of the class's examples; the row of a class without examples
    is empty.
    """
    tables = {"teacher, on clients' examples": teacher, "proxy, on the test set": proxy}
    known = {title: table for title, table in tables.items() if table is not None and len(table)}
    if not known:
        return None
    named = {int(label): str(name) for label, name in dict(names).items()}
    labels = sorted(
        {*named, *(int(c) for table in known.values() for c in np.unique(table[["class", "predicted_class"]]))}
    )
    texts = [style.short(named.get(label, str(label))) for label in labels]
    size = min(4.2, max(2.6, 1.4 + 0.27 * len(labels)))
    margin = 0.07 * max(0, max(map(len, texts)) - 10)  # inches for long class names
    width = 2 * size + 0.8 if len(known) > 1 else size + 1.2
    with style.new_figure(width + margin, size + 0.8 + margin) as figure:
        panels = style.panels(figure, [""] * len(known), sharey=True)
        for axes, (title, table) in zip(panels, known.items(), strict=True):
            counts = table.pivot_table(index="class", columns="predicted_class", values="examples", aggfunc="sum")
            grid = counts.reindex(index=labels, columns=labels).fillna(0).to_numpy(dtype=float)
            axes.set_title(f"{title}:\n{100 * np.trace(grid) / grid.sum():.1f} % correct", loc="left")
            image = _draw_confusion(axes, grid, texts)
        style.label_outer(panels, "predicted class", "class")
        figure.colorbar(image, ax=panels, label="share of the class (%)", shrink=0.85)
        return figure


def rare_for(partition: pd.DataFrame) -> pd.DataFrame:
    """Return the share of clients, over all runs, for which a class is rare: [conditions, classes]."""
    holding = partition[partition["examples"] > 0]
    totals = holding.groupby(["run", "client"], observed=True)["examples"].transform("sum")
    common = (
        holding[holding["examples"] >= RARE_CLASS_SHARE * totals].groupby(["condition", "class"], observed=True).size()
    )
    clients = holding.drop_duplicates(["run", "client"]).groupby("condition", observed=True).size()
    classes = sorted(partition["class"].unique())
    counts = common.unstack("class").reindex(index=clients.index, columns=classes).fillna(0)
    shares = 1 - counts.div(clients, axis=0)
    return shares.set_axis(clients.index.astype(str), axis=0)


def _selected(accuracy: "pd.Series[float]") -> list[float]:
    """The classes to draw: all in their order, or the worst and the best by accuracy."""
    if len(accuracy) <= MAX_CLASSES:
        return sorted(accuracy.index)
    ranked = list(accuracy.sort_values(kind="stable").index)
    return sorted([*ranked[: MAX_CLASSES // 2], *ranked[-(MAX_CLASSES - MAX_CLASSES // 2) :]], key=ranked.index)


def _draw_marks(axes: "Axes", accuracy: "pd.Series[float]", index: int, count: int, line: Mapping[str, Any]) -> None:
    """Draw the marks of one of `count` families, shifted vertically so that they do not overlap."""
    shift = 0.44 * ((index + 0.5) / count - 0.5)
    axes.plot(accuracy, np.arange(len(accuracy)) + shift, markersize=4, **line)


def _mark_rare(axes: "Axes", rare: "pd.Series[float]") -> None:
    """Write the percentage of clients for each class, and shades the rows above one half."""
    axes.set_title("rare for", loc="right", fontsize=7.5)
    for row, share in enumerate(rare):
        text = f"{share:.0f} %"
        axes.text(0.99, row, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7.5)
        if share > 50:
            axes.axhspan(row - 0.5, row + 0.5, color=style.FAINT_COLOR, alpha=0.25, linewidth=0, zorder=0)


def _shade_legend() -> dict[str, Any]:
    from matplotlib.patches import Patch

    label = f"rare for most clients: under {100 * RARE_CLASS_SHARE:g} % of their examples"
    return {label: Patch(color=style.FAINT_COLOR, alpha=0.25, linewidth=0)}


def _draw_confusion(axes: "Axes", grid: "np.ndarray[Any, Any]", names: list[str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    full = to_rgba(style.NEUTRAL_COLOR)
    colormap = LinearSegmentedColormap.from_list("clear", [(*full[:3], 0.0), full])  # transparent for any background
    totals = grid.sum(axis=1, keepdims=True)
    shares = np.divide(100 * grid, totals, out=np.full_like(grid, np.nan), where=totals > 0)
    image = axes.imshow(shares, cmap=colormap, vmin=0, vmax=100, aspect="equal", interpolation="nearest")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
    if len(names) <= MAX_CLASSES_WITH_NUMBERS:
        for row, column in np.argwhere(shares >= 0.5).tolist():
            share = shares[row, column]
            color = "white" if share > 85 else style.TEXT_COLOR
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize=7)
    step = -(-len(names) // MAX_CLASS_NAMES)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize=7.5)
    axes.set_yticks(range(0, len(names), step), names[::step], fontsize=7.5)
    axes.tick_params(length=0)
    return image
