from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.frames import checked, labels, legend, lines, named, note, panels, rounded, texts, titles
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.figures.style import COLORS
from analysis.figures.sweeps import lambda_curves, lambda_heatmap, one_or_random, zero_shot_or_tuned

ACCURACY = "mean accuracy, last 5 rounds (%)"


def distilled(lam: float, last: float, alpha: float = 0.1, teacher: str = "RN50", seed: int = 0) -> dict[str, Any]:
    return {"strategy": "fedlpfm", "lam": lam, "last": last, "alpha": alpha, "teacher": teacher, "seed": seed}


def fedavg(last: float, alpha: float = 0.1) -> dict[str, Any]:
    return {"strategy": "fedavg", "last": last, "alpha": alpha}


def swept() -> pd.DataFrame:
    return named(
        distilled(0.25, 0.3), distilled(0.25, 0.5, seed=1), distilled(1.0, 0.2),
        distilled(1.0, 0.2, teacher="ViT-B-32"),
        distilled(0.25, 0.7, 0.5), fedavg(0.25), fedavg(0.35, 0.5),
    )  # fmt: skip


def test_lambda_curves_draw_mean_and_std_over_seeds() -> None:
    figure = checked(lambda_curves(swept()))
    first, second = panels(figure)
    assert titles(figure) == ["α=0.1", "α=0.5"]
    points = [line for line in lines(first, COLORS["Fed-LPFM"]) if line]
    assert rounded(points[0]) == [(0.25, 40), (1, 20)]
    assert [(1, 20)] in map(rounded, points)  # the other teacher
    assert [(0.25, 70)] in map(rounded, lines(second, COLORS["Fed-LPFM"]))
    bar = first.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert bar == pytest.approx([40 - 100 * np.std([0.3, 0.5], ddof=1), 40 + 100 * np.std([0.3, 0.5], ddof=1)])
    assert rounded(lines(first, COLORS["FedAvg"])[0])[0][1] == 25
    assert rounded(lines(second, COLORS["FedAvg"])[0])[0][1] == 35
    assert labels(figure) == {"λ (weight of the distillation loss)", ACCURACY}
    assert legend(figure) == ["Fed-LPFM, RN50", "Fed-LPFM, ViT-B-32", "FedAvg"]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["0.25", "1"]


def test_lambda_curves_of_all_teachers_contain_lambda_zero() -> None:
    runs = named(distilled(0.0, 0.1), distilled(0.5, 0.2), distilled(0.5, 0.3, teacher="ViT-B-32"))
    (axes,) = panels(checked(lambda_curves(runs)))
    drawn = [rounded(line) for line in lines(axes, COLORS["Fed-LPFM"]) if line]
    assert [(0, 10), (0.5, 20)] in drawn
    assert [(0, 10), (0.5, 30)] in drawn


def test_lambda_figures_have_a_line_and_a_panel_per_algorithm() -> None:
    """The runs without a teacher, λ = 0, belong to the line of their own algorithm."""
    spec = {"teacher.kind": "zero_shot", "teacher.model": "RN50"}
    added = [{"strategy": "scaffold", "last": last, "alpha": alpha, "spec": spec | {"strategy.distillation.lam": lam}}
             for lam, last in ((0.0, 0.6), (0.5, 0.8)) for alpha in (0.1, 0.5)]  # fmt: skip
    own = [distilled(lam, last, alpha) for lam, last in ((0.0, 0.1), (0.5, 0.2)) for alpha in (0.1, 0.5)]
    runs = named(*added, *own)
    first, _ = panels(checked(lambda_curves(runs)))
    assert [(0, 60), (0.5, 80)] in [rounded(line) for line in lines(first, COLORS["SCAFFOLD"]) if line]
    assert [(0, 10), (0.5, 20)] in [rounded(line) for line in lines(first, COLORS["Fed-LPFM"]) if line]
    assert titles(checked(lambda_heatmap(runs))) == ["Fed-LPFM", "SCAFFOLD + KD"]


def test_lambda_figures_without_a_sweep_are_none() -> None:
    for runs in (
        named(distilled(0.5, 0.2), fedavg(0.1)),
        named(fedavg(0.1), fedavg(0.2, 0.5)),
        swept().drop(columns="strategy.lam"),
    ):
        assert lambda_curves(runs) is None
        assert lambda_heatmap(runs) is None
    one_condition = named(distilled(0.25, 0.3), distilled(1.0, 0.2))
    assert lambda_heatmap(one_condition) is None


def test_lambda_curves_draw_the_three_best_teachers() -> None:
    runs = named(*(distilled(lam, place / 10, teacher=f"T{place}") for lam in (0.1, 0.2) for place in range(5)))
    figure = checked(lambda_curves(runs))
    assert legend(figure) == ["Fed-LPFM, T2", "Fed-LPFM, T3", "Fed-LPFM, T4"]
    assert note(figure) == "the 3 most accurate teachers of each algorithm; 2 more are not shown"


def cells(axes: Axes, conditions: Axes | None = None) -> dict[tuple[str, str], str]:
    """Numbers by condition and λ. `conditions` are the axes with the names of the conditions."""
    across = [tick.get_text() for tick in axes.get_xticklabels()]
    down = [tick.get_text() for tick in (conditions or axes).get_yticklabels()]
    places = ((text.get_position(), text.get_text()) for text in axes.texts)
    return {(down[round(y)], across[round(x)]): text for (x, y), text in places}


def test_lambda_heatmap_has_differences_to_fedavg() -> None:
    figure = checked(lambda_heatmap(swept()))
    rn50, vit = panels(figure)
    assert titles(figure) == ["RN50", "ViT-B-32"]
    assert cells(rn50) == {("α=0.1", "0.25"): "+5.0", ("α=0.1", "1"): "-5.0", ("α=0.5", "0.25"): "+35.0"}  # of seed 0
    assert cells(vit, rn50) == {("α=0.1", "1"): "-5.0"}
    framed = [patch for patch in rn50.patches if isinstance(patch, Rectangle)]
    assert [(round(p.get_x()), round(p.get_y())) for p in framed] == [(0, 0)]  # λ = 0.25 in the condition with two λ
    assert {"difference to FedAvg (points)", "condition", "λ (weight of the distillation loss)"} == labels(figure)
    assert rn50.images[0].get_clim() == pytest.approx((-35, 35))  # symmetric around zero


def test_lambda_curves_are_of_the_best_temperature_only() -> None:
    """T=4 is best; the runs with T=1 are not drawn."""
    levels = {(0.25, 1): 0.1, (0.5, 1): 0.2, (0.25, 4): 0.3, (0.5, 4): 0.4}
    spec = {"teacher.kind": "zero_shot", "teacher.model": "RN50"}
    runs = named(*(distilled(lam, x) | {"spec": spec | {"strategy.temperature": t}} for (lam, t), x in levels.items()))
    (axes,) = panels(checked(lambda_curves(runs)))
    assert rounded(lines(axes, COLORS["Fed-LPFM"])[0]) == [(0.25, 30), (0.5, 40)]


def test_lambda_heatmap_without_fedavg_has_accuracies() -> None:
    runs = named(distilled(0.25, 0.3), distilled(0.5, 0.2), distilled(0.25, 0.4, 0.5), distilled(0.5, np.nan, 0.5))
    figure = checked(lambda_heatmap(runs))
    (axes,) = panels(figure)
    assert cells(axes) == {("α=0.1", "0.25"): "30.0", ("α=0.1", "0.5"): "20.0", ("α=0.5", "0.25"): "40.0"}
    assert ACCURACY in labels(figure)
    assert axes.images[0].get_clim() == pytest.approx((20, 40))


def test_lambda_heatmap_without_accuracies_is_none() -> None:
    assert lambda_heatmap(named(distilled(0.25, np.nan), distilled(0.5, np.nan, 0.5))) is None


@pytest.mark.slow
def test_lambda_heatmap_of_many_lambdas_and_conditions() -> None:
    alphas, lams = [0.01 * 2**power for power in range(12)], [place / 10 for place in range(1, 11)]
    runs = named(*(distilled(lam, 0.5, alpha, teacher) for alpha in alphas for lam in lams for teacher in ("A", "B")))
    figure = checked(lambda_heatmap(runs))
    first, second = panels(figure)
    assert len(cells(first)) == 120
    assert first.get_position().y0 > second.get_position().y1  # one below the other: ten λ need the whole width


SPECS = {
    "zero shot": {"teacher.kind": "zero_shot", "teacher.model": "RN50"},
    "tuned": {"teacher.kind": "adapted", "teacher.method": "fine_tune", "teacher.backbone.model": "RN50"},
    "other": {"teacher.kind": "zero_shot", "teacher.model": "ViT-B-32"},
    "random": {
        "teacher.kind": "ensemble", "teacher.assignment": "random", "teacher.teachers.0.kind": "zero_shot",
        "teacher.teachers.0.model": "RN50", "teacher.teachers.1.kind": "zero_shot",
        "teacher.teachers.1.model": "ViT-B-32",
    },
}  # fmt: skip


def of_specs(**lasts: tuple[float, ...]) -> pd.DataFrame:
    return named(
        *(
            {"strategy": "fedlpfm", "lam": 0.5, "spec": SPECS[name.replace("_", " ")], "last": last, "seed": seed}
            for name, values in lasts.items()
            for seed, last in enumerate(values)
        )
    )


def marks(axes: Axes) -> dict[str, list[tuple[float, ...]]]:
    return {str(line.get_label()): rounded(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_zero_shot_or_tuned_compares_methods_of_one_backbone() -> None:
    figure = checked(zero_shot_or_tuned(of_specs(zero_shot=(0.2, 0.4), tuned=(0.5, 0.7), other=(0.9,))))
    (axes,) = panels(figure)
    assert marks(axes) == {"fine-tuned": [(60, 0)], "zero-shot": [(30, 0)]}  # the other backbone has one method only
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Dirichlet α=0.1 · RN50"]
    assert labels(figure) == {ACCURACY}
    assert legend(figure) == ["fine-tuned", "zero-shot"]
    assert not {line.get_color() for line in axes.lines} & {*COLORS.values()}  # colours of algorithms are not used
    assert zero_shot_or_tuned(of_specs(zero_shot=(0.2,), other=(0.9,))) is None


def test_one_or_random_compares_assignments() -> None:
    figure = checked(one_or_random(of_specs(zero_shot=(0.2,), other=(0.9,), random=(0.4, 0.6))))
    (axes,) = panels(figure)
    assert marks(axes) == {"RN50": [(20, 0)], "ViT-B-32": [(90, 0)], "random of RN50, ViT-B-32": [(50, 0)]}
    assert texts(axes) == []
    assert one_or_random(of_specs(zero_shot=(0.2,), other=(0.9,))) is None
    assert one_or_random(of_specs(random=(0.2,))) is None
