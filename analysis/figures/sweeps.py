"""Figures of accuracy by λ and by kind of teacher."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.distillation import ADDED_WEIGHT, WEIGHT, teacher_weight
from analysis.figures import style
from analysis.figures.families import chosen, present, share_legend, styles_of
from analysis.labels import CONDITION_SECTIONS, backbone, teacher_method
from analysis.tables import best_of_families, comparison
from fedray.results.specs import varying_fields

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LAMBDA = "λ (weight of the distillation loss)"
METHOD_LABELS = {"fine_tune": "fine-tuned", "linear_probe": "linearly probed"}


def lambda_curves(named: pd.DataFrame) -> "Figure | None":
    """Return a figure with a panel per condition: accuracy by λ, a line per teacher, FedAvg as a horizontal line."""
    swept = _swept(named)
    if swept is None:
        return None
    shown, note = chosen(swept[swept["teacher_name"] != ""])
    styles, conditions = styles_of(named), present(swept["condition"])
    with style.new_figure(*style.size_of(len(conditions))) as figure:
        panels = style.panels(figure, conditions, sharey=True, sharex=True)
        for axes, condition in zip(panels, conditions, strict=True):
            runs = swept[swept["condition"] == condition]
            for family in present(shown["family"]):
                points = _of_family(runs, family).groupby("lam")["last"].agg(["mean", "std"]) * 100
                std = points["std"].fillna(0)
                axes.errorbar(points.index, points["mean"], yerr=std, capsize=2, markersize=4, **styles[family])
            _draw_fedavg(axes, named, condition)
            _label_lambdas(axes, sorted(swept["lam"].unique()))
        style.label_outer(panels, LAMBDA, style.accuracy_label(named["k"]))
        fedavg = {"FedAvg": {"color": style.color("FedAvg"), "linestyle": style.DASHES[1]}}
        drawn = {family: styles[family] for family in present(shown["family"])}
        share_legend(figure, drawn | (fedavg if "FedAvg" in set(named["algorithm"]) else {}), note)
        return figure


def lambda_heatmap(named: pd.DataFrame) -> "Figure | None":
    """Return a figure with a panel per teacher (and algorithm): the difference to FedAvg in points by condition and λ.

    Differences are between pairs with the same seed, as in `tables.comparison`; without FedAvg, accuracies in % are
    drawn. The best λ of a condition is framed.
    """
    swept = _swept(named)
    if swept is None or swept["condition"].nunique() < 2:
        return None
    compared = comparison(named, baselines=["FedAvg"])
    has_fedavg = "difference to FedAvg" in compared
    cells = 100 * compared.set_index(["setting", "condition"])["difference to FedAvg" if has_fedavg else "mean"]
    distilled = swept[swept["teacher_name"] != ""]
    one_algorithm = distilled["algorithm"].nunique() == 1
    titles = distilled["teacher_name"] if one_algorithm else distilled["family"].astype(str)
    families = dict(zip(titles, distilled["family"].astype(str), strict=True))
    conditions, lams = present(swept["condition"]), sorted(swept["lam"].unique())
    grids = {
        title: _grid(_of_family(swept, family), cells).reindex(index=conditions, columns=lams)
        for title, family in sorted(families.items())
    }
    values = np.stack([grid.to_numpy(dtype=float) for grid in grids.values()])
    if not np.isfinite(values).any():
        return None
    largest = float(np.nanmax(np.abs(values)))
    lowest = -largest if has_fedavg else float(np.nanmin(values))
    number, colormap = ("{:+.1f}", "PuOr_r") if has_fedavg else ("{:.1f}", "cividis")
    max_columns = min(style.MAX_COLUMNS, max(1, int(7.5 / (0.48 * len(lams)))))
    with style.new_figure(*style.size_of(len(grids), max(2.4, 0.75 + 0.27 * len(conditions)), max_columns)) as figure:
        for axes, grid in zip(style.panels(figure, list(grids), max_columns, sharey=True), grids.values(), strict=True):
            axes.grid(visible=False)
            image = axes.imshow(grid, cmap=colormap, vmin=lowest, vmax=largest, aspect="auto")
            _write_cells(axes, grid, number, image)
        style.label_outer(figure.axes, LAMBDA, "condition")
        label = "difference to FedAvg (points)" if has_fedavg else style.accuracy_label(named["k"])
        figure.colorbar(image, ax=figure.axes, label=label, shrink=0.9, aspect=30, pad=0.02)
        return figure


def zero_shot_or_tuned(named: pd.DataFrame) -> "Figure | None":
    """Return a figure that compares zero-shot backbones with the same ones fitted to clients' data, by condition."""
    runs = _with_teacher_columns(named)
    methods = runs.groupby("backbone")["method"].nunique()
    both = runs[runs["backbone"].isin(methods.index[methods > 1]) & (runs["backbone"] != "")]
    return _contrast(both, "method", "backbone") if both["method"].nunique() > 1 else None


def one_or_random(named: pd.DataFrame) -> "Figure | None":
    """Return a figure that compares one backbone for all clients with random ones per client, by condition."""
    runs = _with_teacher_columns(named)
    if "random" not in set(runs["assignment"]) or runs["assignment"].nunique() < 2:
        return None
    return _contrast(runs, "teacher_name", "method")


def _swept(named: pd.DataFrame) -> pd.DataFrame | None:
    """The runs with a λ, if λ has several values and a run uses a teacher; otherwise None.

    Only runs that differ from the best setting of their family in λ alone: accuracies by λ are comparable at one
    temperature only.
    """
    lams = teacher_weight(named)
    swept = named.assign(lam=lams)[lams.notna()]
    ignored = ("lam", WEIGHT, ADDED_WEIGHT, "strategy.name", "teacher.", *CONDITION_SECTIONS)
    best = best_of_families(swept).drop_duplicates("family").set_index("family")
    for field in [field for field in varying_fields(swept) if not field.startswith(ignored)]:
        swept = swept[swept[field].astype(str) == swept["family"].map(best[field].astype(str)).astype(str)]
    return swept if swept["lam"].nunique() > 1 and (swept["teacher_name"] != "").any() else None


def _of_family(swept: pd.DataFrame, family: str) -> pd.DataFrame:
    """The runs of a family, and the runs of its algorithm without a teacher (λ = 0)."""
    algorithms = swept.loc[swept["family"] == family, "algorithm"]
    return swept[(swept["family"] == family) | ((swept["teacher_name"] == "") & swept["algorithm"].isin(algorithms))]


def _draw_fedavg(axes: "Axes", named: pd.DataFrame, condition: str) -> None:
    runs = named[(named["algorithm"] == "FedAvg") & (named["condition"] == condition)]
    if len(runs):
        axes.axhline(100 * runs["last"].mean(), color=style.color("FedAvg"), linestyle=style.DASHES[1])


def _label_lambdas(axes: "Axes", lams: Sequence[float]) -> None:
    """Marks every λ if there are few; otherwise matplotlib chooses the ticks."""
    if len(lams) <= 6:
        axes.set_xticks(lams, [f"{lam:g}" for lam in lams])


def _grid(swept: pd.DataFrame, cells: "pd.Series[float]") -> pd.DataFrame:
    """Cells of these settings by condition (rows) and λ (columns); NaN without a run."""
    lams = swept.drop_duplicates("setting").set_index("setting")["lam"]
    rows = cells.rename("cell").reset_index().merge(lams, on="setting")
    return rows.pivot_table(index="condition", columns="lam", values="cell", observed=True)


def _write_cells(axes: "Axes", grid: pd.DataFrame, number: str, image: "AxesImage") -> None:
    """Write the number of each cell; the best one of a condition is bold and framed."""
    from matplotlib.patches import Rectangle

    values = grid.to_numpy(dtype=float)
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        is_best = value == np.nanmax(values[row]) and np.isfinite(values[row]).sum() > 1
        color = style.text_color_on(np.ravel(image.cmap(image.norm(value))))
        weight = "bold" if is_best else "normal"
        text = number.format(round(value, 1) + 0.0)  # turns -0.0 into 0.0
        axes.text(column, row, text, ha="center", va="center", color=color, fontweight=weight, fontsize=8)
        if is_best:
            axes.add_patch(
                Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=color, linewidth=1.4)
            )
    axes.set_xticks(range(grid.shape[1]), [f"{lam:g}" for lam in grid.columns])
    axes.set_yticks(range(len(grid)), [str(condition) for condition in grid.index])
    axes.tick_params(length=0)


def _with_teacher_columns(named: pd.DataFrame) -> pd.DataFrame:
    """The runs with a teacher, with its `backbone`, `method` and `assignment`."""
    runs = named[named["teacher_name"] != ""]
    rows = [{str(name): value for name, value in row.items()} for row in runs.to_dict("records")]
    return runs.assign(
        backbone=[backbone(row) for row in rows],
        method=[METHOD_LABELS.get(teacher_method(row), teacher_method(row)).replace("_", "-") for row in rows],
        assignment=[
            str(row.get("teacher.assignment")) if row.get("teacher.kind") == "ensemble" else "one" for row in rows
        ],
    )


def _contrast(runs: pd.DataFrame, compared: str, within: str) -> "Figure | None":
    """Draw a row per condition and value of `within`: a mark per value of `compared`, joined by a line."""
    means = 100 * runs.groupby(["condition", within, compared], observed=True)["last"].mean().unstack(compared)
    means = means[means.notna().sum(axis=1) > 1]
    if means.empty:
        return None
    with style.new_figure(style.SINGLE_WIDTH_INCHES, 1.3 + 0.32 * len(means)) as figure:
        (axes,) = style.panels(figure, [""])
        axes.grid(visible=False)
        axes.grid(axis="x", color=style.FAINT_COLOR, alpha=0.35)
        rows = range(len(means) - 1, -1, -1)
        axes.hlines(rows, means.min(axis=1), means.max(axis=1), color=style.FAINT_COLOR, linewidth=1.2)
        for index, value in enumerate(means.columns):
            marker, color = style.MARKERS[index % 6], style.OTHER_COLORS[index % 4]
            axes.plot(means[value], rows, linestyle="", marker=marker, color=color, label=value)
        axes.set_yticks(rows, [" · ".join(map(str, key)) for key in means.index])
        axes.set_xlabel(style.accuracy_label(runs["k"]))
        figure.legend(loc="outside upper left", ncols=4, fontsize=8)
        return figure
