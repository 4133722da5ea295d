"""Axes: what combinations a space stands for."""

import math
from collections import Counter
from typing import Any

import pytest

from fedray.config.space import Assignment, active, combinations, contains, parse_axes, random_points, zip_row
from fedray.errors import SpecError


def choices(space: dict[str, Any], samples: int = 1, seed: int = 0) -> list[Assignment]:
    return combinations(parse_axes(space, "study.yaml"), samples, seed)


def test_a_grid_runs_its_last_axis_fastest() -> None:
    found = choices({"a": {"grid": [1, 2]}, "b": {"grid": ["x", "y"]}})
    assert [tuple(choice.values()) for choice in found] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_zipped_axes_advance_together_and_cross_the_others() -> None:
    found = choices({"a": {"zip": [1, 2]}, "g": {"grid": [0, 9]}, "b": {"zip": ["x", "y"]}})
    assert {tuple(choice.values()) for choice in found} == {(1, 0, "x"), (1, 9, "x"), (2, 0, "y"), (2, 9, "y")}
    assert len(found) == 4
    assert list(found[0]) == ["a", "g", "b"]


def test_zipped_axes_must_be_equally_long() -> None:
    with pytest.raises(SpecError, match=r"^study.yaml: zipped axes .* equally long, but a has 2, b has 3 values\.$"):
        choices({"a": {"zip": [1, 2]}, "b": {"zip": [1, 2, 3]}})


@pytest.mark.parametrize(
    ("axis", "lowest", "highest"),
    [({"uniform": [2, 3]}, 2, 3), ({"loguniform": [0.01, 1]}, 0.01, 1), ({"randint": [4, 6]}, 4, 6)],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_draws_stay_within_their_bounds(axis: dict[str, Any], lowest: float, highest: float) -> None:
    found = [choice["a"] for choice in choices({"a": axis}, samples=200)]
    assert all(lowest <= value <= highest for value in found)
    assert len(set(found)) == (3 if "randint" in axis else 200)


def test_a_loguniform_draw_is_uniform_in_its_logarithm() -> None:
    found = sorted(choice["a"] for choice in choices({"a": {"loguniform": [0.01, 1]}}, samples=400))
    assert math.log10(found[200]) == pytest.approx(-1, abs=0.15)


def test_a_choice_draws_every_value() -> None:
    found = [choice["a"] for choice in choices({"a": {"choice": ["x", "y", "z"]}}, samples=60)]
    assert set(found) == {"x", "y", "z"}


def test_more_samples_keep_the_first_ones_and_other_axes_do_not_change_them() -> None:
    few = choices({"a": {"uniform": [0, 1]}}, samples=3)
    assert choices({"a": {"uniform": [0, 1]}}, samples=5)[:3] == few
    beside = choices({"b": {"grid": [1, 2]}, "a": {"uniform": [0, 1]}}, samples=3)
    assert [choice["a"] for choice in beside] == [value for choice in few for value in [choice["a"]] * 2]


def test_another_seed_draws_other_values() -> None:
    assert choices({"a": {"uniform": [0, 1]}}, seed=1) != choices({"a": {"uniform": [0, 1]}}, seed=2)


def test_an_axis_applies_only_when_another_field_is_so() -> None:
    axes = parse_axes(
        {
            "strategy.name": {"grid": ["fedavg", "fedprox", "fedlpfm"]},
            "strategy.mu": {"grid": [0.1, 1], "when": {"strategy.name": "fedprox"}},
            "strategy.lam": {"grid": [0.5], "when": {"strategy.name": ["fedlpfm"], "seed": 3}},
        },
        "study.yaml",
    )
    kept = [active(choice, axes, {"seed": 3}.get) for choice in combinations(axes, 1, 0)]
    unique = {tuple(choice.items()) for choice in kept}
    assert unique == {
        (("strategy.name", "fedavg"),),
        (("strategy.name", "fedprox"), ("strategy.mu", 0.1)),
        (("strategy.name", "fedprox"), ("strategy.mu", 1)),
        (("strategy.name", "fedlpfm"), ("strategy.lam", 0.5)),
    }
    assert all("strategy.lam" not in active(choice, axes, {"seed": 4}.get) for choice in combinations(axes, 1, 0))


EVERY_KIND: dict[str, Any] = {
    "grid": {"grid": [1, 2, 3]},
    "choice": {"choice": ["x", "y"]},
    "uniform": {"uniform": [2, 3]},
    "loguniform": {"loguniform": [0.01, 1]},
    "randint": {"randint": [4, 6]},
    "left": {"zip": ["a", "b", "a"]},
    "right": {"zip": [0, 0, 1]},
}


def points(space: dict[str, Any], samples: int, seed: int = 0) -> list[Assignment]:
    return random_points(parse_axes(space, "study.yaml"), samples, seed)


def test_random_points_draw_every_axis() -> None:
    found = points(EVERY_KIND, 300)
    assert len(found) == 300
    assert all(list(choice) == list(EVERY_KIND) for choice in found)
    counts = Counter(choice["grid"] for choice in found)
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 70  # 100 expected; 70 is 3.7 deviations below
    assert {choice["choice"] for choice in found} == {"x", "y"}
    assert all(2 <= choice["uniform"] <= 3 for choice in found)
    assert {choice["randint"] for choice in found} == {4, 5, 6}
    logarithms = sorted(math.log10(choice["loguniform"]) for choice in found)
    assert logarithms[0] >= -2
    assert logarithms[-1] <= 0
    assert logarithms[150] == pytest.approx(-1, abs=0.2)
    assert {(choice["left"], choice["right"]) for choice in found} == {("a", 0), ("b", 0), ("a", 1)}
    assert len({(choice["grid"], choice["choice"], choice["randint"], choice["left"]) for choice in found}) == 36


def test_random_points_stay_when_there_are_more_of_them_or_of_the_axes() -> None:
    few = points(EVERY_KIND, 5)
    assert points(EVERY_KIND, 9)[:5] == few
    assert points(EVERY_KIND, 5, seed=1) != few
    more = points({"new": {"uniform": [0, 1]}, **EVERY_KIND}, 5)
    assert [{name: choice[name] for name in EVERY_KIND} for choice in more] == few


def test_random_points_draw_what_is_drawn_beside_a_grid_as_well() -> None:
    """So that a study that was begun on a grid keeps its drawn values where it goes on at random."""
    axis = {"a": {"loguniform": [0.01, 1]}}
    assert points(axis, 4) == choices(axis, samples=4)


def test_what_lies_within_the_axes() -> None:
    axes = parse_axes(EVERY_KIND, "study.yaml")
    for choice in random_points(axes, 20, 0):
        assert contains(axes, choice)
        assert contains(axes, {name: choice[name] for name in ("grid", "left")})  # where the others do not apply
    inside = random_points(axes, 1, 0)[0]
    for field, value in {
        "grid": 4, "choice": "z", "uniform": 3.01, "loguniform": 0.001, "randint": 7, "left": "c", "right": 2,
    }.items():  # fmt: skip
        assert not contains(axes, inside | {field: value})
        assert not contains(axes, inside | {field: None})
    assert not contains(axes, inside | {"left": "b", "right": 1})


def test_which_row_of_the_zipped_axes() -> None:
    axes = parse_axes(EVERY_KIND, "study.yaml")
    rows = [{"left": "a", "right": 0}, {"left": "b", "right": 0}, {"left": "a", "right": 1}]
    assert [zip_row(axes, row) for row in rows] == [0, 1, 2]
    assert zip_row(axes, {"right": 1}) == 2
    assert zip_row(axes, {"left": "b", "right": 1}) is None


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ({"gird": [1]}, "instead of grid; did you mean 'grid'?"),
        ({"grid": [1], "zip": [1]}, "must be written {grid: [value, ...]}"),
        ({"grid": []}, "with at least one value"),
        ({"choice": 3}, "must be written {choice: [value, ...]}"),
        ([1, 2], "must be written {grid: [value, ...]}"),
        ({"uniform": [1]}, "uniform of the axis a must be [lowest, highest], not [1]"),
        ({"uniform": [2, 1]}, "must be [lowest, highest], not [2, 1]"),
        ({"loguniform": [0, 1]}, "must start above 0, not at 0"),
        ({"randint": [0.5, 2]}, "must have whole numbers"),
        ({"grid": [1], "when": "b"}, "must map fields to values, not 'b'"),
    ],
    ids=str,
)
def test_one_sentence_for_what_is_wrong(axis: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        choices({"a": axis})
    assert said in str(caught.value)
    assert str(caught.value).startswith("study.yaml: ")
