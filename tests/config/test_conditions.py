"""Conditions of axes compare with the resolved experiment."""

from pathlib import Path

import pytest
from helpers.specs import write_spec

from fedray.config.fields import MISSING, field_value
from fedray.config.loader import load
from fedray.errors import SpecError

AXIS = "training.optimizer.momentum: {grid: [0.0, 0.5], when: "


def labels(folder: Path, base: str, axes: str, *overrides: str) -> list[str]:
    return [run.label for run in load(write_spec(folder, f"base: {base}\nspace: {{{axes}}}"), overrides)]


@pytest.mark.parametrize(
    ("base", "when"),
    [
        ("{}", "{training.optimizer.lr: 0.01}"),
        ("{}", "{training.optimizer.lr: 1e-2}"),
        ("{training: {optimizer: {lr: 1e-2}}}", "{training.optimizer.lr: 0.01}"),
        ("{training: {optimizer: {lr: 0.30000000000000004}}}", "{training.optimizer.lr: 0.3}"),
        ("{training: {optimizer: {lr: 1}}}", "{training.optimizer.lr: [0.1, 1.0]}"),
        ("{training: {rounds: 1e1}}", "{training.rounds: 10}"),
        ("{}", "{teacher: null}"),
        ("{}", "{strategy.name: fedavg}"),
        ("{}", "{strategy: {name: fedavg}}"),
        ("{}", "{partition.kind: dirichlet}"),
        ("{}", "{partition.alpha: 0.5}"),
        ("{}", "{training.fast_layers: true}"),
        ("{partition: {kind: class_split}}", "{partition.classes_per_client: [2]}"),
        ("{strategy: {name: fedprox}}", "{strategy.weighting: examples}"),
        ("{teacher: {kind: zero_shot, prompts: ['a {}', 'b {}']}}", "{teacher.prompts: ['a {}', 'b {}']}"),
        ("{}", "{training: {optimizer: {lr: 0.01}, rounds: 10}}"),
        ("{}", "{strategy: [{name: fedprox}, {name: fedavg}]}"),
    ],
)  # fmt: skip
def test_condition_holds_for_equal_and_default_values(tmp_path: Path, base: str, when: str) -> None:
    assert labels(tmp_path, base, AXIS + when + "}") == ["momentum=0.0", "momentum=0.5"]


@pytest.mark.parametrize(
    "when",
    ["{training.optimizer.lr: 0.02}", "{strategy: [{name: fedprox}, {name: fml}]}",
     "{partition.classes_per_client: 2}", "{strategy.mu: 0.01}",
     "{training.fast_layers: false}", "{training.optimizer.lr: 0.01, seed: 1}", "{training: {optimizer: {lr: 0.02}}}"],
)  # fmt: skip
def test_condition_does_not_hold_for_other_values(tmp_path: Path, when: str) -> None:
    assert labels(tmp_path, "{}", AXIS + when + "}") == [""]


def test_condition_follows_an_override(tmp_path: Path) -> None:
    assert len(labels(tmp_path, "{}", AXIS + "{training.optimizer.lr: 0.05}}", "training.optimizer.lr=5e-2")) == 2


def test_condition_reads_axes_in_any_order(tmp_path: Path) -> None:
    axes = (
        "training.optimizer.momentum: {grid: [0.5], when: {training.optimizer.lr: 0.2}},"
        "training.optimizer.lr: {grid: [0.2], when: {training.rounds: 3}}, training.rounds: {grid: [3, 4]}"
    )
    assert labels(tmp_path, "{}", axes) == ["momentum=0.5, lr=0.2, rounds=3", "rounds=4"]


def test_condition_reads_defaults_of_the_section_that_an_axis_selects(tmp_path: Path) -> None:
    axes = AXIS + "{strategy.mu: 0.01}}, strategy.name: {grid: [fedavg, fedprox]}"
    assert labels(tmp_path, "{}", axes) == [
        "strategy=fedavg", "momentum=0.0, strategy=fedprox", "momentum=0.5, strategy=fedprox"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (AXIS + "{training.optimizer.lr: fast}}", "training.optimizer.lr: 'fast', a value that this field cannot have"),
        (AXIS + "{training.optimizer.lr: [0.1, -1]}}", "training.optimizer.lr: -1, a value that"),
        (AXIS + "{strategy.name: fedprxo}}", "has strategy.name: 'fedprxo', a value"),
        (AXIS + "{training.fast_layers: yes}}", "has training.fast_layers: 'yes', a value"),
        (AXIS + "{training.fast_layers: 1}}", "has training.fast_layers: 1, a value"),
        (AXIS + "{training.rounds: true}}", "has training.rounds: True, a value"),
        (AXIS + "{training.optimizer.lr: []}}", "has training.optimizer.lr: [], a value"),
        (AXIS + "{training: {lrr: 1}}}", "has an unknown field 'training.lrr'"),
        (AXIS + "{training: {1: 1}}}", "has an unknown field 'training.1'"),
        (AXIS + "{strategy: [{name: fedavg}, {name: 3}]}}", "has strategy.name: 3, a value"),
        (AXIS + "{1: 2}}", "has an unknown field '1'"),
        (AXIS + "{training.optimizer.momentum: 0.9}}",
         "depends on itself: training.optimizer.momentum -> training.optimizer.momentum"),
        (AXIS + "{training.rounds: 1}}, training.rounds: {grid: [1], when: {training.optimizer.momentum: 0.5}}",
         "depends on itself"),
        ("strategy: {grid: [{name: fedavg}]}, strategy.weighting: {grid: [uniform]}",
         "the axes strategy and strategy.weighting overlap"),
        ("strategy.loss.name: {grid: [kd]}, strategy: {grid: [{name: fedavg}]}", "strategy.loss.name overlap"),
    ],
)  # fmt: skip
def test_impossible_condition_is_one_sentence(tmp_path: Path, axes: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        labels(tmp_path, "{}", axes)
    assert expected in str(caught.value)


def test_field_that_a_section_does_not_have_has_no_value() -> None:
    assert field_value({}, "training.optimizer.lr") == 0.01
    assert field_value({}, "strategy.mu") is MISSING
    assert field_value({"teacher": {"kind": "precomputed"}}, "teacher.file") is MISSING
    assert field_value({"teacher": None}, "teacher.kind") is MISSING
    assert field_value({"data": "digits"}, "data.train") is MISSING
