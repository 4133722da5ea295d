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


def warnings_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Return the lines that a command prints on stderr, after it has ended with an error of the spec."""
    monkeypatch.setattr(sys, "argv", ["fedray", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("override", "data", "error"),
    [
        ("data.test=folder:elsewhere", "train", "data.test"),
        ("partition.clients=100", "both", "partition.clients is 100"),
        ("partition.clients=8 proxy.name=resnet18", "both", "proxy.name is"),
    ],
)
def test_run_that_fails_before_its_first_round_prints_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    data: str,
    error: str,
) -> None:
    """The cause of the error may be the data that was left out."""
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    for name in ("train", "test"):
        write_folder(tmp_path / name, ["cat", "dog"], per_class=4)
        (tmp_path / name / "cat" / "9.png").symlink_to("/nowhere")
    first, second = warnings_of(capsys, monkeypatch, "run", "spec.yaml", "--quiet", *override.split())
    assert first.startswith("fedray: warning: data.train left out of 'folder:train': dangling links: 1 (cat/9.png)")
    assert ("data.test left out" in first) == (data == "both")
    assert second.startswith(f"fedray: {error}")


def test_teachers_check_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    for name in ("train", "test"):
        write_folder(tmp_path / name, ["cat", "dog"], per_class=4)
    (tmp_path / "train" / "cat" / "9.png").symlink_to("/nowhere")
    Path("logits.csv").write_text("no table of logits")
    teacher = "teacher={kind: precomputed, file: logits.csv}"
    first, second = warnings_of(capsys, monkeypatch, "teachers", "check", "spec.yaml", teacher)
    assert first.startswith("fedray: warning: data.train left out of 'folder:train': dangling links: 1")
    assert second.startswith("fedray: teacher.file")
