"""Requirements of spec files."""

from pathlib import Path

import pytest

from fedray.doctor.requirements import requirements
from fedray.doctor.resource_checks import plan_trials
from fedray.errors import SpecError

SPACE = """
base:
  data: {train: "parquet:images/*.parquet", test: digits}
  partition: {kind: iid, clients: 6}
  teacher: {kind: zero_shot, model: "local-dir:clip", pretrained: null}
  training: {rounds: 2}
  resources: {cpus_per_client: 2}
space:
  proxy.init: {grid: [random, "file:w.safetensors"]}
"""


def test_requirements_of_a_space(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    required = requirements(tmp_path / "space.yaml")
    assert (required.is_study, required.uses_teacher_cache, required.max_trials) == (True, True, 2)
    assert required.client_resources == {(2, 0)}
    assert {(f.field, f.text, f.on_every_node) for f in required.files} == {
        ("data.train", "parquet:images/*.parquet", True),
        ("teacher.model", "local-dir:clip", True),
        ("proxy.init", "file:w.safetensors", True),
    }
    assert plan_trials(required, {"CPU": 8})[0] == 2


def test_missing_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no spec"):
        requirements(tmp_path / "no.yaml")


def test_tables_of_a_plain_experiment_are_read_on_this_node_only(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_text("client,index\n0,1\n1,2\n")
    (tmp_path / "one.yaml").write_text(f"partition: {{kind: file, file: {tmp_path}/part.csv}}")
    required = requirements(tmp_path / "one.yaml")
    assert list(required.clients.values()) == [2]
    assert [(f.field, f.on_every_node) for f in required.files] == [("partition.file", False)]
    assert not required.uses_teacher_cache


def test_optuna_requires_as_many_trials_as_it_proposes(tmp_path: Path) -> None:
    text = "base: {}\nspace: {training.optimizer.lr: {uniform: [0.01, 0.1]}}\nsearch: {algorithm: optuna, samples: 3}"
    (tmp_path / "search.yaml").write_text(text)
    assert requirements(tmp_path / "search.yaml").max_trials == 3
