"""Keys of trials: equal for equal results, unchanged by new fields with defaults."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedray.config.experiment import Experiment
from fedray.config.key import DEFAULTS_VERSION, set_fields_of, trial_key
from fedray.section import Section

RECORDED = Path(__file__).with_name("defaults.json")
"""The version of the defaults, and every default of the spec by class and field."""


def parse(**sections: Any) -> Experiment:
    return Experiment.model_validate(sections)


class Weather(Section):
    wind: float = 1.0


class LaterExperiment(Experiment):
    """An experiment of a later version, which has one more section and one more field."""

    weather: Weather = Weather()
    notes: str = ""


def test_only_fields_that_differ_from_their_defaults_are_set() -> None:
    assert set_fields_of(parse()) == {}
    assert set_fields_of(parse(training={"optimizer": {"lr": 0.01}, "batch_size": 64})) == {}
    assert set_fields_of(parse(training={"optimizer": {"lr": 0.5}})) == {
        "training": {"optimizer": {"name": "sgd", "lr": 0.5}}
    }


def test_class_of_a_section_is_always_set() -> None:
    assert set_fields_of(parse(strategy={"name": "fedprox"})) == {"strategy": {"name": "fedprox"}}
    teacher = {"kind": "ensemble", "teachers": [{"kind": "supervised"}, {"kind": "supervised", "epochs": 3}]}
    spec = parse(teacher=teacher, strategy={"name": "fedlpfm"}, data={"public_fraction": 0.1})
    assert set_fields_of(spec)["teacher"] == teacher


def test_experiments_with_other_results_have_other_keys() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"training": {"optimizer": {"lr": 0.5}}},
        {"training": {"optimizer": {"momentum": 0.5}}},
        {"strategy": {"name": "fedprox"}},
        {"strategy": {"name": "fml"}},
        {"strategy": {"name": "fedprox", "mu": 0.5}},
        {"proxy": {"name": "resnet18"}},
        {"partition": {"kind": "iid"}},
        {"partition": {"kind": "iid", "clients": 3}},
    ]
    assert len({trial_key(parse(**change)) for change in changes}) == len(changes)


def test_execution_does_not_change_the_key() -> None:
    execution = parse(resources={"backend": "serial"}, checkpoint={"every": 7})
    assert trial_key(execution) == trial_key(parse())


def test_new_section_with_its_defaults_does_not_change_keys() -> None:
    sections = {"training": {"optimizer": {"lr": 0.5}}, "strategy": {"name": "fedprox"}}
    assert trial_key(LaterExperiment.model_validate(sections)) == trial_key(parse(**sections))
    windy = LaterExperiment.model_validate({**sections, "weather": {"wind": 2}})
    assert trial_key(windy) != trial_key(parse(**sections))


def defaults() -> dict[str, Any]:
    """Every default of the spec, `SGD.lr: 0.01`, read from its JSON schema."""
    schema = Experiment.model_json_schema()
    classes = {"Experiment": schema, **schema["$defs"]}
    return {
        f"{name}.{field}": info["default"]
        for name, section in sorted(classes.items())
        for field, info in section.get("properties", {}).items()
        if "default" in info
    }


def test_changed_default_needs_a_new_version_of_the_defaults() -> None:
    recorded = json.loads(RECORDED.read_text())
    advice = "record the defaults again (docs/design.md, Identity)"
    if recorded["version"] != DEFAULTS_VERSION:
        pytest.fail(f"DEFAULTS_VERSION is {DEFAULTS_VERSION}, but defaults.json is of {recorded['version']}: {advice}")
    now = defaults()
    changed = sorted(field for field, value in recorded["defaults"].items() if now.get(field, value) != value)
    assert not changed, f"{changed} changed: raise DEFAULTS_VERSION in fedray/config/key.py and {advice}"
    new = sorted(now.keys() - recorded["defaults"].keys())
    assert not new, f"{new} are new: {advice}"
