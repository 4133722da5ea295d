"""Specs survive writing to YAML and reading back."""

from pathlib import Path

import yaml
from helpers.specs import NESTED, README_EXAMPLE, write_spec

from fedray.config.loader import load
from fedray.config.yaml_files import flatten, to_yaml


def test_to_yaml_writes_all_defaults_and_reads_back_equal(tmp_path: Path) -> None:
    (run,) = load(write_spec(tmp_path, README_EXAMPLE))
    text = to_yaml(run.experiment)
    (reloaded,) = load(write_spec(tmp_path, text, "resolved.yaml"))
    assert reloaded.experiment == run.experiment
    flat = flatten(yaml.safe_load(text))
    assert (flat["teacher.prompts"], flat["teacher.view"], flat["teacher.mode"]) == ("single", "plain", "cached")
    assert flat["evaluation.batch_size"] == 500
    assert set(flatten(yaml.safe_load(README_EXAMPLE))) <= set(flat)


def test_nested_teachers_read_back_equal(tmp_path: Path) -> None:
    (run,) = load(write_spec(tmp_path, NESTED))
    text = to_yaml(run.experiment)
    (reloaded,) = load(write_spec(tmp_path, text, "resolved.yaml"))
    assert reloaded.experiment == run.experiment
    tree = yaml.safe_load(text)
    assert tree["strategy"]["loss"]["mixup"] == 0.2
    assert tree["teacher"]["assignment"] == [0, [0, 1], 2]
    assert [teacher["kind"] for teacher in tree["teacher"]["teachers"]] == ["zero_shot", "classifier", "adapted"]
    assert tree["teacher"]["teachers"][1]["class_map"] == {"0": [1, 2], "1": [3]}
    assert tree["teacher"]["teachers"][2]["backbone"]["epochs"] == 2
