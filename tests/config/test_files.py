"""Files that a spec names, identified by their contents."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import federated

from fedray.config.experiment import Experiment
from fedray.config.files import named_files
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
    assert named_files(small(teacher={"kind": "supervised", "epochs": 1})) == {}


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
    assert list(named_files(experiment)) == ["teacher.file"]
    list(run(experiment, tmp_path / "run"))
    assert list(run(experiment, tmp_path / "run")) == []
    table.assign(logits=list(-logits)).to_parquet(tmp_path / "logits.parquet")
    with pytest.raises(SpecError, match=r"other contents of the file that teacher\.file names; restore them"):
        list(run(experiment, tmp_path / "run"))
