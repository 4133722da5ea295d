"""`fedray run` prints one line on stderr for what it left out of the data, and refuses columns of no table."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.images import write_folder

from fedray.cli.main import main

SPEC = """
data: {train: 'folder:train', test: 'folder:test'}
partition: {kind: iid, clients: 2}
training: {rounds: 2, batch_size: 4}
resources: {backend: serial}
"""


def test_run_prints_one_warning_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    for name in ("train", "test"):
        write_folder(tmp_path / name, ["cat", "dog"], per_class=4)
        (tmp_path / name / "cat" / "9.png").symlink_to("/nowhere")
    monkeypatch.setattr(sys, "argv", ["fedray", "run", "spec.yaml", "--quiet"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capsys.readouterr().err.splitlines() == [
        "fedray: warning: data.train left out of 'folder:train': dangling links: 1 (cat/9.png); "
        "data.test left out of 'folder:test': dangling links: 1 (cat/9.png)."
    ]


def test_column_without_a_table(run_error: Callable[..., str]) -> None:
    assert run_error("data.label_column=kind") == (
        "fedray: data.label_column is set, but neither data.train nor data.test is a parquet source."
    )
