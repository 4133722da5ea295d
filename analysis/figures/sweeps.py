"""What a parameter of the study does to accuracy: λ, and what the teacher is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.families import chosen, present, share_legend, styles_of
from analysis.naming import CONDITIONS, backbone, teacher_method
from analysis.tables import best_of_families, comparison
from fedray.results.loader import varying_fields

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

METHODS = {"fine_tune": "fine-tuned", "linear_probe": "linearly probed"}


def lambda_curves(named: pd.DataFrame) -> "Figure | None":
    """A panel per condition: accuracy by λ, a line per teacher; FedAvg as a level."""
    swept = _swept(named)
    if swept is None:
        return None
    shown, said = chosen(swept[swept["teacher_name"] != ""])
    looks, conditions = styles_of(named), present(swept["condition"])
    with style.new_figure(*style.size_of(len(conditions))) as figure:
        for axes, condition in zip(style.panels(figure, conditions, sharey=True, sharex=True), conditions, strict=True):
            own = swept[swept["condition"] == condition]
            for family in present(shown["family"]):
                spread = _of_family(own, family).groupby("strategy.lam")["last"].agg(["mean", "std"]) * 100
                axes.errorbar(
                    spread.index, spread["mean"], yerr=spread["std"].fillna(0), capsize=2, markersize=4, **looks[family]
                )
            _draw_level(axes, named, condition)
            _label_lambdas(axes, sorted(swept["strategy.lam"].unique()))
        style.label_outer(figure.axes[: len(conditions)], "λ (weight of the teacher)", style.ACCURACY)
        level = {"FedAvg": {"color": style.color("FedAvg"), "linestyle": style.DASHES[1]}}
        drawn = {family: looks[family] for family in present(shown["family"])}
        share_legend(figure, drawn | (level if "FedAvg" in set(named["algorithm"]) else {}), said)
        return figure


def lambda_heatmap(named: pd.DataFrame) -> "Figure | None":
    """A panel per teacher: condition by λ, the difference to FedAvg in points; without FedAvg, the accuracy in %.

    Differences are of pairs with the same seed, as in `tables.comparison`. The best λ of a condition is framed.
    """
    swept = _swept(named)
    if swept is None or swept["condition"].nunique() < 2:
        return None
    compared = comparison(named, baselines=["FedAvg"])
    paired = "difference to FedAvg" in compared
    cells = 100 * compared.set_index(["setting", "condition"])["difference to FedAvg" if paired else "mean"]
    targets = swept[swept["teacher_name"] != ""]
    teachers = dict(zip(targets["teacher_name"], targets["family"].astype(str), strict=True))
    conditions, lams = present(swept["condition"]), sorted(swept["strategy.lam"].unique())
    grids = {
        teacher: _grid(_of_family(swept, family), cells).reindex(index=conditions, columns=lams)
        for teacher, family in sorted(teachers.items())
    }
    values = np.stack([grid.to_numpy(dtype=float) for grid in grids.values()])
    if not np.isfinite(values).any():
        return None
    largest = float(np.nanmax(np.abs(values)))
    lowest = -largest if paired else float(np.nanmin(values))
    form, palette = ("{:+.1f}", "PuOr_r") if paired else ("{:.1f}", "cividis")
    most = min(style.PANELS, max(1, int(7.5 / (0.48 * len(lams)))))
    with style.new_figure(*style.size_of(len(grids), max(2.4, 0.75 + 0.27 * len(conditions)), most)) as figure:
        for axes, grid in zip(style.panels(figure, list(grids), most, sharey=True), grids.values(), strict=True):
            axes.grid(visible=False)
            picture = axes.imshow(grid, cmap=palette, vmin=lowest, vmax=largest, aspect="auto")
            _write_cells(axes, grid, form, picture)
        style.label_outer(figure.axes, "λ (weight of the teacher)", "condition")
        what = "points above FedAvg" if paired else style.ACCURACY
        figure.colorbar(picture, ax=figure.axes, label=what, shrink=0.9, aspect=30, pad=0.02)
        return figure


def zero_shot_or_tuned(named: pd.DataFrame) -> "Figure | None":
    """Each backbone as it is beside the same one fitted to clients' data, by condition."""
    targets = _described(named)
    methods = targets.groupby("backbone")["method"].nunique()
    both = targets[targets["backbone"].isin(methods.index[methods > 1]) & (targets["backbone"] != "")]
    return _contrast(both, "method", "backbone") if both["method"].nunique() > 1 else None


def one_or_random(named: pd.DataFrame) -> "Figure | None":
    """One backbone for all clients beside one drawn for each client, by condition."""
    targets = _described(named)
    if "random" not in set(targets["assignment"]) or targets["assignment"].nunique() < 2:
        return None
    return _contrast(targets, "teacher_name", "method")


def _swept(named: pd.DataFrame) -> pd.DataFrame | None:
    """The runs that have a λ, if it has several values and one of them a teacher.

    Of each family, those that differ from its best setting in λ alone: at another temperature, λ is another thing.
    """
    if "strategy.lam" not in named:
        return None
    swept = named[named["strategy.lam"].notna()].astype({"strategy.lam": float})
    told = ("strategy.lam", "strategy.name", "teacher.", *CONDITIONS)
    best = best_of_families(swept).drop_duplicates("family").set_index("family")
    for field in [field for field in varying_fields(swept) if not field.startswith(told)]:
        swept = swept[swept[field].astype(str) == swept["family"].map(best[field].astype(str)).astype(str)]
    return swept if swept["strategy.lam"].nunique() > 1 and (swept["teacher_name"] != "").any() else None


def _of_family(swept: pd.DataFrame, family: str) -> pd.DataFrame:
    """A family's runs, and those with λ = 0, which no teacher has touched."""
    return swept[(swept["family"] == family) | (swept["teacher_name"] == "")]


def _draw_level(axes: "Axes", named: pd.DataFrame, condition: str) -> None:
    own = named[(named["algorithm"] == "FedAvg") & (named["condition"] == condition)]
    if len(own):
        axes.axhline(100 * own["last"].mean(), color=style.color("FedAvg"), linestyle=style.DASHES[1])


def _label_lambdas(axes: "Axes", lams: Sequence[float]) -> None:
    """All of them where they have room, or else round numbers."""
    if len(lams) <= 6:
        axes.set_xticks(lams, [f"{lam:g}" for lam in lams])


def _grid(swept: pd.DataFrame, cells: "pd.Series[float]") -> pd.DataFrame:
    """Conditions [rows] by λ [columns] of the cells of these settings; NaN where there is no run."""
    lams = swept.drop_duplicates("setting").set_index("setting")["strategy.lam"].rename("lam")
    own = cells.rename("cell").reset_index().merge(lams, on="setting")
    return own.pivot_table(index="condition", columns="lam", values="cell", observed=True)


def _write_cells(axes: "Axes", grid: pd.DataFrame, form: str, picture: "AxesImage") -> None:
    """Each cell's number, the best of a condition bold and framed."""
    from matplotlib.patches import Rectangle

    values = grid.to_numpy(dtype=float)
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        is_best = value == np.nanmax(values[row]) and np.isfinite(values[row]).sum() > 1
        ink = style.text_color_on(np.ravel(picture.cmap(picture.norm(value))))
        weight = "bold" if is_best else "normal"
        text = form.format(round(value, 1) + 0.0)  # -0.0 is nothing
        axes.text(column, row, text, ha="center", va="center", color=ink, fontweight=weight, fontsize=8)
        if is_best:
            axes.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=ink, linewidth=1.4))
    axes.set_xticks(range(grid.shape[1]), [f"{lam:g}" for lam in grid.columns])
    axes.set_yticks(range(len(grid)), [str(condition) for condition in grid.index])
    axes.tick_params(length=0)


def _described(named: pd.DataFrame) -> pd.DataFrame:
    """The runs with teachers: whose `backbone`, by which `method`, by which `assignment`."""
    targets = named[named["teacher_name"] != ""]
    rows = [{str(k): v for k, v in row.items()} for row in targets.to_dict("records")]
    return targets.assign(
        backbone=[backbone(row) for row in rows],
        method=[METHODS.get(teacher_method(row), teacher_method(row)).replace("_", "-") for row in rows],
        assignment=[
            str(row.get("teacher.assignment")) if row.get("teacher.kind") == "ensemble" else "one" for row in rows
        ],
    )


def _contrast(runs: pd.DataFrame, compared: str, within: str) -> "Figure | None":
    """A row per condition and `within` that has several values of `compared`: a mark for each, joined by a line."""
    means = 100 * runs.groupby(["condition", within, compared], observed=True)["last"].mean().unstack(compared)
    means = means[means.notna().sum(axis=1) > 1]
    if means.empty:
        return None
    with style.new_figure(7.2, 1.3 + 0.32 * len(means)) as figure:
        (axes,) = style.panels(figure, [""])
        axes.grid(visible=False)
        axes.grid(axis="x", color=style.FAINT_COLOR, alpha=0.35)
        rows = range(len(means) - 1, -1, -1)
        axes.hlines(rows, means.min(axis=1), means.max(axis=1), color=style.FAINT_COLOR, linewidth=1.2)
        for place, kind in enumerate(means.columns):
            axes.plot(
                means[kind],
                rows,
                linestyle="",
                marker=style.MARKERS[place % 6],
                color=style.OTHER_COLORS[place % 4],
                label=kind,
            )
        axes.set_yticks(rows, [" · ".join(map(str, key)) for key in means.index])
        axes.set_xlabel(style.ACCURACY)
        figure.legend(loc="outside upper left", ncols=4, fontsize=8)
        return figure
