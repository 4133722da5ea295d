from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.frames import labels, legend, lines, named, panels, rounded, said, seen, texts, titles
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.figures.style import COLORS
from analysis.figures.sweeps import lambda_curves, lambda_heatmap, one_or_random, zero_shot_or_tuned

ACCURACY = "accuracy, mean of last rounds (%)"


def targets(lam: float, last: float, alpha: float = 0.1, teacher: str = "RN50", seed: int = 0) -> dict[str, Any]:
    return {"strategy": "fedlpfm", "lam": lam, "last": last, "alpha": alpha, "teacher": teacher, "seed": seed}


def plain(last: float, alpha: float = 0.1) -> dict[str, Any]:
    return {"strategy": "fedavg", "last": last, "alpha": alpha}


def swept() -> pd.DataFrame:
    return named(
        targets(0.25, 0.3), targets(0.25, 0.5, seed=1), targets(1.0, 0.2), targets(1.0, 0.2, teacher="ViT-B-32"),
        targets(0.25, 0.7, 0.5), plain(0.25), plain(0.35, 0.5),
    )  # fmt: skip


def test_accuracy_by_lambda() -> None:
    figure = seen(lambda_curves(swept()))
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
    assert labels(figure) == {"λ (weight of the teacher)", ACCURACY}
    assert legend(figure) == ["Fed-LPFM, RN50", "Fed-LPFM, ViT-B-32", "FedAvg"]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["0.25", "1"]


def test_no_teacher_at_all_belongs_to_every_teacher() -> None:
    runs = named(targets(0.0, 0.1), targets(0.5, 0.2), targets(0.5, 0.3, teacher="ViT-B-32"))
    (axes,) = panels(seen(lambda_curves(runs)))
    drawn = [rounded(line) for line in lines(axes, COLORS["Fed-LPFM"]) if line]
    assert [(0, 10), (0.5, 20)] in drawn
    assert [(0, 10), (0.5, 30)] in drawn


def test_lambda_without_a_sweep_is_no_figure() -> None:
    for runs in (
        named(targets(0.5, 0.2), plain(0.1)),
        named(plain(0.1), plain(0.2, 0.5)),
        swept().drop(columns="strategy.lam"),
    ):
        assert lambda_curves(runs) is None
        assert lambda_heatmap(runs) is None
    one_condition = named(targets(0.25, 0.3), targets(1.0, 0.2))
    assert lambda_heatmap(one_condition) is None


def test_teachers_beyond_three_are_left_out_of_curves() -> None:
    runs = named(*(targets(lam, place / 10, teacher=f"T{place}") for lam in (0.1, 0.2) for place in range(5)))
    figure = seen(lambda_curves(runs))
    assert legend(figure) == ["Fed-LPFM, T2", "Fed-LPFM, T3", "Fed-LPFM, T4"]
    assert said(figure) == "the 3 most accurate teachers of each algorithm; 2 more are not shown"


def cells(axes: Axes, conditions: Axes | None = None) -> dict[tuple[str, str], str]:
    """What is written, by condition (which the first of a row of panels names) and λ."""
    across = [tick.get_text() for tick in axes.get_xticklabels()]
    down = [tick.get_text() for tick in (conditions or axes).get_yticklabels()]
    places = ((text.get_position(), text.get_text()) for text in axes.texts)
    return {(down[round(y)], across[round(x)]): text for (x, y), text in places}


def test_heatmap_is_the_difference_to_fedavg() -> None:
    figure = seen(lambda_heatmap(swept()))
    rn50, vit = panels(figure)
    assert titles(figure) == ["RN50", "ViT-B-32"]
    assert cells(rn50) == {("α=0.1", "0.25"): "+5.0", ("α=0.1", "1"): "-5.0", ("α=0.5", "0.25"): "+35.0"}  # of seed 0
    assert cells(vit, rn50) == {("α=0.1", "1"): "-5.0"}
    framed = [patch for patch in rn50.patches if isinstance(patch, Rectangle)]
    assert [(round(p.get_x()), round(p.get_y())) for p in framed] == [(0, 0)]  # λ = 0.25 where there are two
    assert {"points above FedAvg", "condition", "λ (weight of the teacher)"} == labels(figure)
    assert rn50.images[0].get_clim() == pytest.approx((-35, 35))  # nothing is white where there is a difference


def test_at_one_temperature_only() -> None:
    """T=4 is best at λ=0.5; what T=1 comes to is another curve."""
    levels = {(0.25, 1): 0.1, (0.5, 1): 0.2, (0.25, 4): 0.3, (0.5, 4): 0.4}
    spec = {"teacher.kind": "zero_shot", "teacher.model": "RN50"}
    runs = named(*(targets(lam, x) | {"spec": spec | {"strategy.temperature": t}} for (lam, t), x in levels.items()))
    (axes,) = panels(seen(lambda_curves(runs)))
    assert rounded(lines(axes, COLORS["Fed-LPFM"])[0]) == [(0.25, 30), (0.5, 40)]


def test_heatmap_without_fedavg_is_accuracy() -> None:
    runs = named(targets(0.25, 0.3), targets(0.5, 0.2), targets(0.25, 0.4, 0.5), targets(0.5, np.nan, 0.5))
    figure = seen(lambda_heatmap(runs))
    (axes,) = panels(figure)
    assert cells(axes) == {("α=0.1", "0.25"): "30.0", ("α=0.1", "0.5"): "20.0", ("α=0.5", "0.25"): "40.0"}
    assert ACCURACY in labels(figure)
    assert axes.images[0].get_clim() == pytest.approx((20, 40))


def test_heatmap_of_nothing_but_gaps() -> None:
    assert lambda_heatmap(named(targets(0.25, np.nan), targets(0.5, np.nan, 0.5))) is None


@pytest.mark.slow
def test_heatmap_of_many_lambdas_and_conditions() -> None:
    alphas, lams = [0.01 * 2**power for power in range(12)], [place / 10 for place in range(1, 11)]
    runs = named(*(targets(lam, 0.5, alpha, teacher) for alpha in alphas for lam in lams for teacher in ("A", "B")))
    figure = seen(lambda_heatmap(runs))
    first, second = panels(figure)
    assert len(cells(first)) == 120
    assert first.get_position().y0 > second.get_position().y1  # below each other: ten λ need the width


SPECS = {
    "as it is": {"teacher.kind": "zero_shot", "teacher.model": "RN50"},
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


def test_a_backbone_as_it_is_and_tuned() -> None:
    figure = seen(zero_shot_or_tuned(of_specs(as_it_is=(0.2, 0.4), tuned=(0.5, 0.7), other=(0.9,))))
    (axes,) = panels(figure)
    assert marks(axes) == {"fine-tuned": [(60, 0)], "zero-shot": [(30, 0)]}  # the other backbone was not tuned
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Dirichlet α=0.1 · RN50"]
    assert labels(figure) == {ACCURACY}
    assert legend(figure) == ["fine-tuned", "zero-shot"]
    assert not {line.get_color() for line in axes.lines} & {*COLORS.values()}  # these are no algorithms
    assert zero_shot_or_tuned(of_specs(as_it_is=(0.2,), other=(0.9,))) is None


def test_one_backbone_and_random_ones() -> None:
    figure = seen(one_or_random(of_specs(as_it_is=(0.2,), other=(0.9,), random=(0.4, 0.6))))
    (axes,) = panels(figure)
    assert marks(axes) == {"RN50": [(20, 0)], "ViT-B-32": [(90, 0)], "random of RN50, ViT-B-32": [(50, 0)]}
    assert texts(axes) == []
    assert one_or_random(of_specs(as_it_is=(0.2,), other=(0.9,))) is None
    assert one_or_random(of_specs(random=(0.2,))) is None
