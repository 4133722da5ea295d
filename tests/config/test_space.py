"""Axes of a space: combinations, random points, conditions and errors."""

import math
from collections import Counter
from typing import Any

import pytest

from fedray.config.conditions import active, resolved_in
from fedray.config.space import Assignment, check_count, combinations, contains, parse_axes, random_points, zip_row
from fedray.errors import SpecError


def all_assignments(space: dict[str, Any], samples: int = 1, seed: int = 0) -> list[Assignment]:
    return combinations(parse_axes(space, "study.yaml"), samples, seed)


def test_last_axis_of_a_grid_varies_fastest() -> None:
    assignments = all_assignments({"a": {"grid": [1, 2]}, "b": {"grid": ["x", "y"]}})
    assert [tuple(assignment.values()) for assignment in assignments] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_zipped_axes_advance_together_and_combine_with_others() -> None:
    assignments = all_assignments({"a": {"zip": [1, 2]}, "g": {"grid": [0, 9]}, "b": {"zip": ["x", "y"]}})
    assert {tuple(assignment.values()) for assignment in assignments} == {
        (1, 0, "x"),
        (1, 9, "x"),
        (2, 0, "y"),
        (2, 9, "y"),
    }
    assert len(assignments) == 4
    assert list(assignments[0]) == ["a", "g", "b"]


def test_zipped_axes_must_be_equally_long() -> None:
    with pytest.raises(SpecError, match=r"^study.yaml: zipped axes .* equally long, but a has 2, b has 3 values\.$"):
        all_assignments({"a": {"zip": [1, 2]}, "b": {"zip": [1, 2, 3]}})


@pytest.mark.parametrize(
    ("axis", "lowest", "highest"),
    [({"uniform": [2, 3]}, 2, 3), ({"loguniform": [0.01, 1]}, 0.01, 1), ({"randint": [4, 6]}, 4, 6)],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_draws_stay_within_their_bounds(axis: dict[str, Any], lowest: float, highest: float) -> None:
    values = [assignment["a"] for assignment in all_assignments({"a": axis}, samples=200)]
    assert all(lowest <= value <= highest for value in values)
    assert len(set(values)) == (3 if "randint" in axis else 200)


def test_logarithm_of_a_loguniform_draw_is_uniform() -> None:
    values = sorted(assignment["a"] for assignment in all_assignments({"a": {"loguniform": [0.01, 1]}}, samples=400))
    assert math.log10(values[200]) == pytest.approx(-1, abs=0.15)


def test_choice_draws_every_value() -> None:
    values = [assignment["a"] for assignment in all_assignments({"a": {"choice": ["x", "y", "z"]}}, samples=60)]
    assert set(values) == {"x", "y", "z"}


def test_draws_do_not_depend_on_samples_or_on_other_axes() -> None:
    few = all_assignments({"a": {"uniform": [0, 1]}}, samples=3)
    assert all_assignments({"a": {"uniform": [0, 1]}}, samples=5)[:3] == few
    with_grid = all_assignments({"b": {"grid": [1, 2]}, "a": {"uniform": [0, 1]}}, samples=3)
    assert [assignment["a"] for assignment in with_grid] == [
        value for assignment in few for value in [assignment["a"]] * 2
    ]


def test_another_seed_draws_other_values() -> None:
    assert all_assignments({"a": {"uniform": [0, 1]}}, seed=1) != all_assignments({"a": {"uniform": [0, 1]}}, seed=2)


def test_axis_is_active_only_when_its_condition_holds() -> None:
    axes = parse_axes(
        {
            "strategy.name": {"grid": ["fedavg", "fedprox", "fedlpfm"]},
            "strategy.mu": {"grid": [0.1, 1], "when": {"strategy.name": "fedprox"}},
            "strategy.lam": {"grid": [0.5], "when": {"strategy.name": ["fedlpfm"], "seed": 3}},
        },
        "study.yaml",
    )
    assignments = [active(assignment, axes, resolved_in({"seed": 3})) for assignment in combinations(axes, 1, 0)]
    unique = {tuple(assignment.items()) for assignment in assignments}
    assert unique == {
        (("strategy.name", "fedavg"),),
        (("strategy.name", "fedprox"), ("strategy.mu", 0.1)),
        (("strategy.name", "fedprox"), ("strategy.mu", 1)),
        (("strategy.name", "fedlpfm"), ("strategy.lam", 0.5)),
    }
    assert all(
        "strategy.lam" not in active(assignment, axes, resolved_in({"seed": 4}))
        for assignment in combinations(axes, 1, 0)
    )


ALL_KINDS: dict[str, Any] = {
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
    assignments = points(ALL_KINDS, 300)
    assert len(assignments) == 300
    assert all(list(assignment) == list(ALL_KINDS) for assignment in assignments)
    counts = Counter(assignment["grid"] for assignment in assignments)
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 70  # 100 expected; 70 is 3.7 standard deviations below
    assert {assignment["choice"] for assignment in assignments} == {"x", "y"}
    assert all(2 <= assignment["uniform"] <= 3 for assignment in assignments)
    assert {assignment["randint"] for assignment in assignments} == {4, 5, 6}
    logarithms = sorted(math.log10(assignment["loguniform"]) for assignment in assignments)
    assert logarithms[0] >= -2
    assert logarithms[-1] <= 0
    assert logarithms[150] == pytest.approx(-1, abs=0.2)
    assert {(assignment["left"], assignment["right"]) for assignment in assignments} == {("a", 0), ("b", 0), ("a", 1)}
    assert (
        len({tuple(assignment[name] for name in ("grid", "choice", "randint", "left")) for assignment in assignments})
        == 36
    )


def test_random_points_do_not_depend_on_samples_or_on_other_axes() -> None:
    few = points(ALL_KINDS, 5)
    assert points(ALL_KINDS, 9)[:5] == few
    assert points(ALL_KINDS, 5, seed=1) != few
    more = points({"new": {"uniform": [0, 1]}, **ALL_KINDS}, 5)
    assert [{name: assignment[name] for name in ALL_KINDS} for assignment in more] == few


def test_random_points_equal_the_random_draws_of_a_grid() -> None:
    """A study that changes from grid to random search keeps its random values."""
    axis = {"a": {"loguniform": [0.01, 1]}}
    assert points(axis, 4) == all_assignments(axis, samples=4)


def test_contains_points_of_the_space_only() -> None:
    axes = parse_axes(ALL_KINDS, "study.yaml")
    for assignment in random_points(axes, 20, 0):
        assert contains(axes, assignment)
        assert contains(axes, {name: assignment[name] for name in ("grid", "left")})  # the other axes are inactive
    inside = random_points(axes, 1, 0)[0]
    for field, value in {
        "grid": 4, "choice": "z", "uniform": 3.01, "loguniform": 0.001, "randint": 7, "left": "c", "right": 2,
    }.items():  # fmt: skip
        assert not contains(axes, inside | {field: value})
        assert not contains(axes, inside | {field: None})
    assert not contains(axes, inside | {"left": "b", "right": 1})


def test_zip_row_is_the_first_that_agrees() -> None:
    axes = parse_axes(ALL_KINDS, "study.yaml")
    rows = [{"left": "a", "right": 0}, {"left": "b", "right": 0}, {"left": "a", "right": 1}]
    assert [zip_row(axes, row) for row in rows] == [0, 1, 2]
    assert zip_row(axes, {"right": 1}) == 2
    assert zip_row(axes, {"left": "b", "right": 1}) is None


@pytest.mark.parametrize(
    ("axis", "expected"),
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
        ({"uniform": [0.1, math.inf]}, "must have finite bounds and a finite width, not [0.1, inf]"),
        ({"loguniform": [0.1, math.inf]}, "must have finite bounds"),
        ({"uniform": [-math.inf, 0]}, "must have finite bounds"),
        ({"uniform": [-1e308, 1e308]}, "must have finite bounds and a finite width"),
        ({"uniform": [math.nan, 1]}, "must be [lowest, highest]"),
        ({"uniform": [False, True]}, "must be [lowest, highest]"),
        ({"randint": [0, 10**26]}, "must have bounds from -2^63 to 2^63 - 1"),
        ({"randint": [0, 1e26]}, "must have bounds from -2^63 to 2^63 - 1"),
        ({"randint": [0, math.inf]}, "must have finite bounds"),
        ({"grid": [1], "when": "b"}, "must map fields to values, not 'b'"),
    ],
    ids=str,
)
def test_invalid_axis_is_one_sentence(axis: Any, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        all_assignments({"a": axis})
    assert expected in str(caught.value)
    assert str(caught.value).startswith("study.yaml: ")


def test_bounds_of_randint_may_be_whole_floats() -> None:
    values = {assignment["a"] for assignment in all_assignments({"a": {"randint": [1e0, 2e0]}}, samples=50)}
    assert values == {1, 2}
    assert all(type(value) is int for value in values)


def test_range_does_not_contain_a_boolean() -> None:
    axes = parse_axes({"a": {"randint": [0, 3]}, "b": {"grid": [1, 0.3]}}, "study.yaml")
    assert contains(axes, {"a": 1, "b": 0.1 + 0.2})
    assert not contains(axes, {"a": True})
    assert not contains(axes, {"b": True})


@pytest.mark.parametrize(
    "space",
    [
        {str(number): {"grid": list(range(10))} for number in range(12)},
        {str(number): {"grid": [0, 1, 2]} for number in range(60_000)},
        {"a": {"grid": list(range(1000))}, "b": {"uniform": [0, 1]}},
    ],
    ids=["1e12", "more digits than Python prints", "draws"],
)
def test_too_many_combinations_are_refused_before_they_are_listed(space: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^study.yaml: the space has more than 100,000 combinations"):
        check_count(parse_axes(space, "study.yaml"), 1000, "study.yaml")
