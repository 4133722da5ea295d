"""Files that a spec names, identified by their contents."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import federated

from fedray.config.experiment import Experiment
from fedray.config.files import named_paths
from fedray.errors import SpecError
from fedray.files import file_digest, strip_scheme
from fedray.study.session import rounds as run

Make = Callable[..., Experiment]


def test_strip_scheme_accepts_every_notation() -> None:
    assert strip_scheme("file:/a/b") == strip_scheme("local-dir:/a/b") == strip_scheme("/a/b") == Path("/a/b")
    assert strip_scheme("~/b") == Path.home() / "b"


def test_digest_of_a_file_depends_on_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "a").write_bytes(b"other weights")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"other weights").hexdigest()
    assert file_digest(tmp_path / "none") is None


def test_digest_of_a_folder_depends_on_file_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    first = file_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert file_digest(tmp_path) != first


def test_names_that_are_not_files_are_omitted(small: Make) -> None:
    assert named_paths(small(teacher={"kind": "supervised", "epochs": 1})) == {}


def test_files_of_every_teacher_in_an_ensemble_are_named(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    classifier = {"kind": "classifier", "model": "resnet18", "pretrained": f"file:{tmp_path}/weights.safetensors"}
    teacher = {"kind": "ensemble", "teachers": [{"kind": "supervised", "epochs": 1}, classifier]}
    experiment = Experiment.model_validate({"data": {"public_fraction": 0.1}, "teacher": teacher})
    assert named_paths(experiment) == {"teacher.teachers.1.pretrained": tmp_path / "weights.safetensors"}


def test_resume_refuses_changed_contents_of_a_named_file(small: Make, tmp_path: Path) -> None:
    data = federated.load(small())
    logits = np.eye(10, dtype=np.float32)[data.train.labels]
    table = pd.DataFrame({"index": data.train.rows, "logits": list(logits)})
    table.to_parquet(tmp_path / "logits.parquet")
    spec = small().model_dump() | {
        "teacher": {"kind": "precomputed", "file": str(tmp_path / "logits.parquet")},
        "strategy": {"name": "fedlpfm"},
    }
    experiment = Experiment.model_validate(spec)
    assert list(named_paths(experiment)) == ["teacher.file"]
    list(run(experiment, tmp_path / "run"))
    next(run(experiment, tmp_path / "started"))
    assert list(run(experiment, tmp_path / "run")) == []
    table.assign(logits=list(-logits)).to_parquet(tmp_path / "logits.parquet")
    with pytest.raises(SpecError, match=r"finished run in '.*' has results of other contents of teacher\.file"):
        list(run(experiment, tmp_path / "run"))
    with pytest.raises(SpecError, match=r"unfinished run in '.*' was started with other contents of teacher\.file"):
        list(run(experiment, tmp_path / "started"))
    table.to_parquet(tmp_path / "logits.parquet")
    assert [result.round for result in run(experiment, tmp_path / "started")] == [2, 3]
