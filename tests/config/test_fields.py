"""Fields that do not exist, in axes and mutations."""

from pathlib import Path

import pytest
from helpers.specs import write_spec

from fedray.config.loader import read
from fedray.errors import SpecError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("space: {strategy.nmae: {grid: [fedavg]}}", "unknown field 'strategy.nmae'; did you mean 'name'?"),
        ("space: {trainig.rounds: {grid: [1]}}", "unknown field 'trainig.rounds'; did you mean 'training'?"),
        (
            "space: {strategy.mu: {grid: [1], when: {strategy.nam: fedprox}}}",
            "'when' of the axis strategy.mu has an unknown field 'strategy.nam'; did you mean 'name'?",
        ),
        (
            "space: {training.optimizer.lr: {grid: [1, 2]}}\n"
            "search: {scheduler: pbt, mutations: {training.optimizer.lr: [1, -5]}}",
            "search.mutations: training.optimizer.lr is -5.0, but must be above 0.",
        ),
        (
            "space: {seed: {grid: [1, 2]}}\nsearch: {scheduler: pbt, mutations: {seed: [1, 2]}}",
            "search.mutations has seed, but only fields of training and strategy may change during a run.",
        ),
    ],
)
def test_unknown_field_is_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SpecError) as error:
        read(write_spec(tmp_path, f"base: {{}}\n{text}"))
    assert str(error.value).endswith(f"yaml: {expected}")
