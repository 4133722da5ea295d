from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.frames import checked, labels, legend, lines, named, note, panels, rounded, texts
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis import tables
from analysis.figures.costs import front_of, pareto
from analysis.figures.style import COLORS, FAINT_COLOR


def drawn(table: pd.DataFrame) -> Figure | None:
    return pareto(table, pd.Series([5, 5]))


def costs(*settings: tuple[str, float, dict[str, float]], condition: str = "α=0.1") -> pd.DataFrame:
    return pd.DataFrame([{"setting": s, "condition": condition, "last": last, **own} for s, last, own in settings])


def three(**changes: Any) -> pd.DataFrame:
    return costs(
        ("FedAvg", 0.3, {"seconds": 60.0, "bytes": 2e9, "teacher_flops": 0.0, "client_flops": 1e13}),
        ("FedProx", 0.2, {"seconds": 90.0, "bytes": 2e9, "teacher_flops": 0.0, "client_flops": 1e13}),
        ("Fed-LPFM, λ=0.5", 0.5, {"seconds": 75.0, "bytes": 2e9, "teacher_flops": 4e13, "client_flops": 1e13}),
    ).assign(**changes)


def points(axes: Axes) -> dict[tuple[float, ...], str]:
    (drawn,) = axes.collections
    return dict(zip(rounded(drawn.get_offsets()), map(to_hex, drawn.get_facecolor()), strict=True))


def test_pareto_has_a_panel_for_each_cost() -> None:
    figure = checked(drawn(three()))
    teachers, seconds = panels(figure)
    assert labels(figure) == {
        "operations of the teachers (Tflop)", "time of all rounds (s)", "mean accuracy, last 5 rounds (%)"
    }  # fmt: skip
    inks = [COLORS[name].lower() for name in ("FedAvg", "FedProx", "Fed-LPFM")]
    assert points(seconds) == dict(zip([(60, 30), (90, 20), (75, 50)], inks, strict=True))
    assert points(teachers) == dict(zip([(0, 30), (0, 20), (40, 50)], inks, strict=True))
    assert [rounded(line) for line in lines(seconds, FAINT_COLOR)] == [[(60, 30), (75, 50)]]
    assert [rounded(line) for line in lines(teachers, FAINT_COLOR)] == [[(0, 30), (40, 50)]]
    assert {*texts(seconds)} == {"FedAvg", "FedProx", "λ=0.5"}
    assert {text.get_text(): text.get_color() for text in seconds.texts}["λ=0.5"] == COLORS["Fed-LPFM"]
    assert legend(figure) == ["FedAvg", "FedProx", "Fed-LPFM", "Pareto front"]
    assert note(figure) == (
        "equal for all: operations of the clients' training 10 Tflop, communication between server and clients 2 GB"
    )


def test_front_of_equals_a_comparison_of_all_pairs() -> None:
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"cost": draw.integers(0, 20, 60) / 4, "last": draw.integers(0, 20, 60) / 20})
    front = front_of(table, "cost")
    kept = {(row.cost, row.last) for row in front.itertuples()}
    everything = {(row.cost, row.last) for row in table.itertuples()}
    beaten = {p for p in everything for q in everything if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert kept == everything - beaten
    assert front["cost"].is_monotonic_increasing


def test_pareto_of_a_wide_range_is_logarithmic() -> None:
    (axes,) = panels(checked(drawn(three(bytes=[1e6, 1e9, 1e12], seconds=1.0, teacher_flops=0.0))))
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "communication between server and clients (GB)"
    assert set(points(axes)) == {(0.001, 30), (1, 20), (1000, 50)}


def test_pareto_of_a_wide_range_shows_zero() -> None:
    (axes,) = panels(checked(drawn(three(teacher_flops=[0.0, 1e12, 1e15], seconds=1.0))))
    assert axes.get_xscale() == "symlog"
    assert axes.transData.transform((0, 0))[0] < axes.transData.transform((1, 0))[0] - 10


@pytest.mark.parametrize(("seconds", "unit"), [(50.0, "s"), (500.0, "min"), (50_000.0, "h")])
def test_pareto_chooses_a_unit_of_time(seconds: float, unit: str) -> None:
    figure = checked(drawn(costs(("FedAvg", 0.3, {"seconds": seconds}), ("FedProx", 0.4, {"seconds": 1.1 * seconds}))))
    assert f"time of all rounds ({unit})" in labels(figure)


def test_pareto_of_missing_or_equal_costs_is_none() -> None:
    assert drawn(three(seconds=1.0, teacher_flops=np.nan)) is None
    assert drawn(three()[["setting", "condition", "last"]]) is None
    assert drawn(three().iloc[:1]) is None
    assert drawn(three(last=np.nan)) is None


def test_pareto_averages_over_shared_conditions() -> None:
    easy = costs(("FedAvg", 0.7, {"seconds": 80.0}), ("FedProx", 0.6, {"seconds": 70.0}), condition="α=0.5")
    figure = checked(drawn(pd.concat([three()[["setting", "condition", "last", "seconds"]], easy])))
    (axes,) = panels(figure)
    assert set(points(axes)) == {(60, 30), (90, 20), (75, 50)}  # only α=0.1 has all three settings
    both = checked(drawn(pd.concat([three().iloc[:2][["setting", "condition", "last", "seconds"]], easy])))
    assert set(points(panels(both)[0])) == {(70, 50), (80, 40)}
    assert note(both) == "means over α=0.1, α=0.5"
    assert legend(both) == ["FedAvg", "FedProx"]  # no entry for a front of one point


def test_pareto_of_many_settings_labels_the_front() -> None:
    many = [
        (f"Fed-LPFM, a teacher of a long name, λ={p}", 0.3 + 0.004 * (p % 7), {"seconds": 100.0 + p}) for p in range(40)
    ]
    (axes,) = panels(checked(drawn(costs(*many))))
    assert len(points(axes)) == 40
    named_front = {f"a teacher of a long name, λ={p}" for p in range(7)}
    assert named_front <= {*texts(axes)}
    assert len(axes.texts) <= 12


def test_pareto_takes_the_table_of_costs() -> None:
    runs = named({"strategy": "fedavg"}, {"strategy": "fedavg", "seed": 1}, {"strategy": "fedprox"})
    spent = runs.assign(last=[0.2, 0.4, 0.5], seconds=[10.0, 20.0, 30.0], bytes=5e6)
    (axes,) = panels(checked(drawn(tables.costs(spent))))
    assert set(points(axes)) == {(15, 30), (30, 50)}
