"""Axes: what combinations a space stands for."""

import math
from typing import Any

import pytest

from fedray.errors import SpecError
from fedray.space import Choice, applying, combinations, parse


def choices(space: dict[str, Any], samples: int = 1, seed: int = 0) -> list[Choice]:
    return combinations(parse(space, "study.yaml"), samples, seed)


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
    drawn = [choice["a"] for choice in choices({"a": axis}, samples=200)]
    assert all(lowest <= value <= highest for value in drawn)
    assert len(set(drawn)) == (3 if "randint" in axis else 200)


def test_a_loguniform_draw_is_uniform_in_its_logarithm() -> None:
    drawn = sorted(choice["a"] for choice in choices({"a": {"loguniform": [0.01, 1]}}, samples=400))
    assert math.log10(drawn[200]) == pytest.approx(-1, abs=0.15)


def test_a_choice_draws_every_value() -> None:
    drawn = [choice["a"] for choice in choices({"a": {"choice": ["x", "y", "z"]}}, samples=60)]
    assert set(drawn) == {"x", "y", "z"}


def test_more_samples_keep_the_first_ones_and_other_axes_do_not_change_them() -> None:
    few = choices({"a": {"uniform": [0, 1]}}, samples=3)
    assert choices({"a": {"uniform": [0, 1]}}, samples=5)[:3] == few
    beside = choices({"b": {"grid": [1, 2]}, "a": {"uniform": [0, 1]}}, samples=3)
    assert [choice["a"] for choice in beside] == [value for choice in few for value in [choice["a"]] * 2]


def test_another_seed_draws_other_values() -> None:
    assert choices({"a": {"uniform": [0, 1]}}, seed=1) != choices({"a": {"uniform": [0, 1]}}, seed=2)


def test_an_axis_applies_only_when_another_field_is_so() -> None:
    axes = parse(
        {
            "strategy.name": {"grid": ["fedavg", "fedprox", "fedlpfm"]},
            "strategy.mu": {"grid": [0.1, 1], "when": {"strategy.name": "fedprox"}},
            "strategy.lam": {"grid": [0.5], "when": {"strategy.name": ["fedlpfm"], "seed": 3}},
        },
        "study.yaml",
    )
    kept = [applying(choice, axes, {"seed": 3}.get) for choice in combinations(axes, 1, 0)]
    unique = {tuple(choice.items()) for choice in kept}
    assert unique == {
        (("strategy.name", "fedavg"),),
        (("strategy.name", "fedprox"), ("strategy.mu", 0.1)),
        (("strategy.name", "fedprox"), ("strategy.mu", 1)),
        (("strategy.name", "fedlpfm"), ("strategy.lam", 0.5)),
    }
    assert all("strategy.lam" not in applying(choice, axes, {"seed": 4}.get) for choice in combinations(axes, 1, 0))


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ({"gird": [1]}, "in grid's place; did you mean 'grid'?"),
        ({"grid": [1], "zip": [1]}, "must be written {grid: [value, ...]}"),
        ({"grid": []}, "with at least one value"),
        ({"choice": 3}, "must be written {choice: [value, ...]}"),
        ([1, 2], "must be written {grid: [value, ...]}"),
        ({"uniform": [1]}, "uniform of the axis a must be [lowest, highest], not [1]"),
        ({"uniform": [2, 1]}, "must be [lowest, highest], not [2, 1]"),
        ({"loguniform": [0, 1]}, "must begin above 0, not at 0"),
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
