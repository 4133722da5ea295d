"""What a parameter of the study does to accuracy: λ, and what the teacher is."""

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures import style
from analysis.figures.curves import present
from analysis.naming import backbone, teacher_method

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def lambda_curves(named: pd.DataFrame) -> "Figure | None":
    """A panel per condition: accuracy by λ, a line per teacher; FedAvg as a dashed level."""
    swept = _swept(named)
    if swept is None:
        return None
    conditions = present(swept["condition"])
    with style.drawn(*style.size_of(len(conditions))) as figure:
        for axes, condition in zip(style.panels(figure, conditions, sharey=True), conditions, strict=True):
            own = swept[swept["condition"] == condition]
            for place, (teacher, points) in enumerate(own.groupby("teacher_name")):
                spread = points.groupby("strategy.lam")["last"].agg(["mean", "std"]) * 100
                axes.errorbar(
                    spread.index, spread["mean"], yerr=spread["std"].fillna(0), capsize=2, markersize=4, label=str(teacher),
                    color=style.color("Fed-LPFM"), linestyle=style.DASHES[place % 4], marker=style.MARKERS[place % 6],
                )  # fmt: skip
            _draw_level(axes, named, condition)
            axes.set_xticks(sorted(own["strategy.lam"].unique()))
            axes.set_xlabel("λ (weight of the teacher)")
        figure.axes[0].set_ylabel("accuracy, mean of the last rounds (%)")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=8)
        return figure


def lambda_heatmap(named: pd.DataFrame) -> "Figure | None":
    """A panel per teacher: λ by condition, the difference to FedAvg in points; without FedAvg, the accuracy in %."""
    swept = _swept(named)
    if swept is None or swept["condition"].nunique() < 2:
        return None
    level = named[named["algorithm"] == "FedAvg"].groupby("condition", observed=True)["last"].mean()
    teachers = sorted(swept["teacher_name"].unique())
    grids = {t: _grid(swept[swept["teacher_name"] == t], level) for t in teachers}
    largest = max(float(grid.abs().max().max()) for grid in grids.values())
    lowest = -largest if len(level) else min(float(grid.min().min()) for grid in grids.values())
    with style.drawn(*style.size_of(len(teachers), 2.9)) as figure:
        for axes, (_, grid) in zip(style.panels(figure, list(grids)), grids.items(), strict=True):
            axes.grid(visible=False)
            picture = axes.imshow(
                grid, cmap="PuOr_r" if len(level) else "cividis", vmin=lowest, vmax=largest, aspect="auto"
            )
            _write_cells(axes, grid, "{:+.1f}" if len(level) else "{:.1f}", (lowest, largest))
            axes.set_xlabel("condition")
            axes.set_ylabel("λ")
        what = "points above FedAvg" if len(level) else "accuracy (%)"
        figure.colorbar(picture, ax=figure.axes, label=what, shrink=0.9)
        return figure


def zero_shot_or_tuned(named: pd.DataFrame) -> "Figure | None":
    """Each backbone as it is beside the same one fitted to clients' data, by condition."""
    taught = _described(named)
    methods = taught.groupby("backbone")["method"].nunique()
    both = taught[taught["backbone"].isin(methods.index[methods > 1]) & (taught["backbone"] != "")]
    return _contrast(both, "method", "backbone") if both["method"].nunique() > 1 else None


def one_or_random(named: pd.DataFrame) -> "Figure | None":
    """One backbone for all clients beside one drawn for each client, by condition."""
    taught = _described(named)
    if "random" not in set(taught["assignment"]) or taught["assignment"].nunique() < 2:
        return None
    return _contrast(taught, "teacher_name", "method")


def _swept(named: pd.DataFrame) -> pd.DataFrame | None:
    """The runs that have a λ, if it has several values."""
    if "strategy.lam" not in named:
        return None
    swept = named[named["strategy.lam"].notna()].astype({"strategy.lam": float})
    return swept if swept["strategy.lam"].nunique() > 1 else None


def _draw_level(axes: "Axes", named: pd.DataFrame, condition: str) -> None:
    own = named[(named["algorithm"] == "FedAvg") & (named["condition"] == condition)]
    if len(own):
        axes.axhline(100 * own["last"].mean(), color=style.color("FedAvg"), linestyle=(0, (5, 2)), label="FedAvg")


def _grid(swept: pd.DataFrame, level: "pd.Series[float]") -> pd.DataFrame:
    means = swept.groupby(["strategy.lam", "condition"], observed=True)["last"].mean().unstack("condition")
    return 100 * (means - level.reindex(means.columns) if len(level) else means)


def _write_cells(axes: "Axes", grid: pd.DataFrame, form: str, limits: tuple[float, float]) -> None:
    """Each cell's number, the best of a condition bold and framed."""
    from matplotlib.patches import Rectangle

    low, high = limits
    best = grid.max()
    for row in range(len(grid)):
        for column, condition in enumerate(grid.columns):
            value = float(grid.iloc[row, column])
            if value != value:  # NaN is not itself: no such run
                continue
            is_best = value == best[condition]
            share = (value - low) / ((high - low) or 1)
            dark = share < 0.45 if form == "{:.1f}" else abs(share - 0.5) > 0.33
            ink, weight = ("white" if dark else "black"), ("bold" if is_best else "normal")
            axes.text(column, row, form.format(value), ha="center", va="center", color=ink, fontweight=weight)
            if is_best:
                axes.add_patch(
                    Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor=ink, linewidth=1.5)
                )
    axes.set_xticks(range(grid.shape[1]), [str(condition) for condition in grid.columns])
    axes.set_yticks(range(len(grid)), [f"{lam:g}" for lam in grid.index])
    axes.tick_params(length=0)


def _described(named: pd.DataFrame) -> pd.DataFrame:
    """The runs with teachers: whose `backbone`, by which `method`, by which `assignment`."""
    taught = named[named["teacher_name"] != ""]
    rows = [{str(k): v for k, v in row.items()} for row in taught.to_dict("records")]
    return taught.assign(
        backbone=[backbone(row) for row in rows],
        method=[teacher_method(row).replace("_", "-") for row in rows],
        assignment=[
            str(row.get("teacher.assignment")) if row.get("teacher.kind") == "several" else "one" for row in rows
        ],
    )


def _contrast(runs: pd.DataFrame, compared: str, within: str) -> "Figure":
    """A row per condition and `within`, a mark per value of `compared`, joined by a line."""
    means = 100 * runs.groupby(["condition", within, compared], observed=True)["last"].mean().unstack(compared)
    with style.drawn(7.2, 1.3 + 0.32 * len(means)) as figure:
        (axes,) = style.panels(figure, [""])
        axes.grid(visible=False)
        axes.grid(axis="x", color=style.FAINT, alpha=0.35)
        rows = range(len(means) - 1, -1, -1)
        axes.hlines(rows, means.min(axis=1), means.max(axis=1), color=style.FAINT, linewidth=1.2)
        inks = (*style.COLORS.values(), *style.OTHERS)
        for place, kind in enumerate(means.columns):
            axes.plot(
                means[kind], rows, linestyle="", marker=style.MARKERS[place % 6], color=inks[-1 - place % 8], label=kind
            )
        axes.set_yticks(rows, [" · ".join(map(str, key)) for key in means.index])
        axes.set_xlabel("accuracy, mean of the last rounds (%)")
        figure.legend(loc="outside upper left", ncols=4, fontsize=8)
        return figure
