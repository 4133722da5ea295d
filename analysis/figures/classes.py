"""Which classes are learned, which are rare for clients, and what they are taken for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.families import chosen, joined, present, share_legend, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RARE = 0.05
"""As in `fedray.evaluation`, which takes torch to import."""
MOST = 20
"""More classes than these are not drawn: the worst and the best stand for all."""
WRITTEN = 12
"""How many classes a confusion may have for its numbers to be written into it."""
NAMED = 30


def accuracy_by_class(named: pd.DataFrame, classes: pd.DataFrame, partition: pd.DataFrame) -> "Figure | None":
    """A panel per condition, a row per class, a mark per family: test accuracy in the last evaluated round.

    `named` should hold one setting per family; marks are means over its seeds. `classes` has `run`, `class`, `name`,
    `accuracy` (a share; NaN where the test set lacks the class), `partition` has `run`, `client`, `class`, `examples`.
    At the right is the share of clients for whom a class is rare (under 5 % of what the client holds, or none
    of it); where it is most of them, the row is shaded.
    """
    shown, said = chosen(named)
    own = joined(shown, classes).dropna(subset="test_accuracy")
    if own.empty:
        return None
    names = own.groupby("class")["class_name"].first().astype(str)
    rows = _telling(own.groupby("class")["test_accuracy"].mean())
    if len(rows) < len(names):
        said = "; ".join(filter(None, [said, f"the {MOST // 2} worst and {MOST // 2} best of {len(names)} classes"]))
    labels = ["condition", "family", "class"]
    means = 100 * own.groupby(labels, observed=True)["test_accuracy"].mean().unstack("class").reindex(columns=rows)
    marks: dict[Any, pd.Series[float]] = dict(means.iterrows())
    rare: dict[Any, pd.Series[float]] = dict((100 * rare_for(joined(shown, partition))).iterrows())
    looks = {family: look | {"linestyle": ""} for family, look in styles_of(named).items()}
    conditions, families = present(own["condition"]), present(own["family"])
    with style.new_figure(*style.size_of(len(conditions), 0.7 + 0.2 * len(rows))) as figure:
        panels = style.panels(figure, conditions, sharex=True, sharey=True)
        for axes, condition in zip(panels, conditions, strict=True):
            for place, family in enumerate(families):
                if (condition, family) in marks:
                    _draw_marks(axes, marks[condition, family], place, len(families), looks[family])
            axes.grid(visible=False)
            axes.grid(axis="x", color=style.FAINT_COLOR, alpha=0.35, linewidth=0.6)
            if condition in rare:
                _mark_rare(axes, rare[condition].reindex(rows, fill_value=100.0))
            if len(rows) < len(names):
                axes.axhline(MOST // 2 - 0.5, color=style.TEXT_COLOR, linewidth=0.8, linestyle=style.DASHES[2])
        panels[0].set_yticks(range(len(rows)), list(map(style.short, names[rows])))
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        panels[0].set_xlim(-2, (1.28 if len(rare) else 1.05) * max(float(np.nanmax(means)), 10))
        panels[0].set_xticks([tick for tick in panels[0].get_xticks() if 0 <= tick <= 100])
        style.label_outer(panels, "test accuracy (%)", "class")
        share_legend(figure, {f: looks[f] for f in families}, said, _shade_legend() if len(rare) else None)
        return figure


def confusions(
    proxy: pd.DataFrame | None, teacher: pd.DataFrame | None, names: "Mapping[Any, str] | pd.Series[str]"
) -> "Figure | None":
    """The teacher's confusion (clients' examples) beside the proxy's (test set): a row per class, in % of its examples.

    Both have `class`, `predicted` and `examples`, a row per pair that occurs, of a run or several; one of them may
    be empty or None. `names` has each class's name. A class without examples is an empty row.
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
    beyond = 0.07 * max(0, max(map(len, texts)) - 10)  # inches that long names take of the squares' room
    width = 2 * size + 0.8 if len(known) > 1 else size + 1.2
    with style.new_figure(width + beyond, size + 0.8 + beyond) as figure:
        panels = style.panels(figure, [""] * len(known), sharey=True)
        for axes, (title, table) in zip(panels, known.items(), strict=True):
            counts = table.pivot_table(index="class", columns="predicted_class", values="examples", aggfunc="sum")
            grid = counts.reindex(index=labels, columns=labels).fillna(0).to_numpy(dtype=float)
            axes.set_title(f"{title}:\n{100 * np.trace(grid) / grid.sum():.1f} % right", loc="left")
            picture = _draw_confusion(axes, grid, texts)
        style.label_outer(panels, "taken for", "class")
        figure.colorbar(picture, ax=panels, label="share of the class (%)", shrink=0.85)
        return figure


def rare_for(partition: pd.DataFrame) -> pd.DataFrame:
    """By condition [rows] and class [columns], the share of clients for whom the class is rare, over all runs."""
    holding = partition[partition["examples"] > 0]
    totals = holding.groupby(["run", "client"], observed=True)["examples"].transform("sum")
    common = holding[holding["examples"] >= RARE * totals].groupby(["condition", "class"], observed=True).size()
    clients = holding.drop_duplicates(["run", "client"]).groupby("condition", observed=True).size()
    classes = sorted(partition["class"].unique())
    counts = common.unstack("class").reindex(index=clients.index, columns=classes).fillna(0)
    shares = 1 - counts.div(clients, axis=0)
    return shares.set_axis(clients.index.astype(str), axis=0)


def _telling(accuracy: "pd.Series[float]") -> list[float]:
    """The classes to show, in their own order: all, or of many the worst and the best."""
    if len(accuracy) <= MOST:
        return sorted(accuracy.index)
    ranked = list(accuracy.sort_values(kind="stable").index)
    return sorted([*ranked[: MOST // 2], *ranked[-(MOST - MOST // 2) :]], key=ranked.index)


def _draw_marks(axes: "Axes", accuracy: "pd.Series[float]", place: int, count: int, look: Mapping[str, Any]) -> None:
    """Those of several families lie a little above and below each other."""
    shift = 0.44 * ((place + 0.5) / count - 0.5)
    axes.plot(accuracy, np.arange(len(accuracy)) + shift, markersize=4, **look)


def _mark_rare(axes: "Axes", rare: "pd.Series[float]") -> None:
    """By class, in % of clients."""
    axes.set_title("rare for", loc="right", fontsize=7.5)
    for row, share in enumerate(rare):
        text = f"{share:.0f} %"
        axes.text(0.99, row, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7.5)
        if share > 50:
            axes.axhspan(row - 0.5, row + 0.5, color=style.FAINT_COLOR, alpha=0.25, linewidth=0, zorder=0)


def _shade_legend() -> dict[str, Any]:
    from matplotlib.patches import Patch

    label = f"rare for most clients: under {100 * RARE:g} % of their examples"
    return {label: Patch(color=style.FAINT_COLOR, alpha=0.25, linewidth=0)}


def _draw_confusion(axes: "Axes", grid: "np.ndarray[Any, Any]", names: list[str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    ink = to_rgba(style.NEUTRAL_COLOR)
    clear = LinearSegmentedColormap.from_list("clear", [(*ink[:3], 0.0), ink])  # so that any ground shines through
    totals = grid.sum(axis=1, keepdims=True)
    shares = np.divide(100 * grid, totals, out=np.full_like(grid, np.nan), where=totals > 0)
    picture = axes.imshow(shares, cmap=clear, vmin=0, vmax=100, aspect="equal", interpolation="nearest")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
    if len(names) <= WRITTEN:
        for row, column in np.argwhere(shares >= 0.5).tolist():
            share = shares[row, column]
            color = "white" if share > 85 else style.TEXT_COLOR
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize=7)
    step = -(-len(names) // NAMED)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize=7.5)
    axes.set_yticks(range(0, len(names), step), names[::step], fontsize=7.5)
    axes.tick_params(length=0)
    return picture
