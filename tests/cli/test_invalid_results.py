"""Unusable results folders end in one sentence and exit code 2."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedray.cli.main import main
from fedray.results.run_folder import RunFolder


def finished(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["fedray", "run", "spec.yaml", "--quiet"])
    with pytest.raises(SystemExit):
        main()
    return Path("results/spec")


@pytest.mark.parametrize("damage", [b"", b"hello,world\n1,2\n", b"\xff\x00\xfe", None], ids=str)
def test_damaged_tables(run_error: Callable[..., str], monkeypatch: pytest.MonkeyPatch, damage: bytes | None) -> None:
    folder = finished(monkeypatch)
    (folder / "model.safetensors").unlink()
    (folder / "rounds.csv").unlink()
    if damage is not None:
        (folder / "rounds.csv").write_bytes(damage)
    assert "the rows of rounds.csv up to the checkpoint of round 1 differ from their checksum" in run_error("--resume")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rounds.csv", b"\xff\x00\xfe", "rounds.csv differs from its checksum"),
        ("rounds.csv", None, "rounds.csv is missing or empty"),
        ("spec.yaml", None, "spec.yaml is missing or empty"),
        ("model.safetensors", b"", "model.safetensors is damaged"),
    ],
)
@pytest.mark.usefixtures("run_error")
def test_damaged_finished_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, reason: str
) -> None:
    file = finished(monkeypatch) / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    errors = capsys.readouterr().err
    assert f"the finished run in 'results/spec' is damaged: {reason}; delete 'results/spec' to run it again." in errors
    assert errors.endswith("fedray: 1 of 1 runs have finished, but their files are damaged; see above.\n")


def test_folder_locked_by_another_run(run_error: Callable[..., str]) -> None:
    Path("results/spec").mkdir(parents=True)
    with RunFolder(Path("results/spec")).lock():
        assert "'results/spec' is being written by another run" in run_error().replace(f"{Path.cwd()}/", "")


def test_results_name_that_is_too_long(run_error: Callable[..., str]) -> None:
    assert "cannot be written (File name too long)" in run_error("--results", "x" * 300)


def test_results_folder_below_a_file(run_error: Callable[..., str]) -> None:
    Path("taken").write_text("a file in place of the folder")
    assert "the results folder 'taken/spec' cannot be written (Not a directory)" in run_error("--results", "taken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_results_folder_without_permission(run_error: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written (Permission denied)" in run_error("--results", "locked")
