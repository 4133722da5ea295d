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
    assert "are complete up to round 0 only, and its checkpoints are of later rounds; delete" in run_error("--resume")


def test_damaged_tables_of_a_finished_run(run_error: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(monkeypatch)
    (folder / "rounds.csv").write_bytes(b"\xff\x00\xfe")
    assert "rounds.csv' is damaged" in run_error()
    (folder / "rounds.csv").unlink()
    assert "no rounds.csv exists in" in run_error()


def test_results_without_a_spec(run_error: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    (finished(monkeypatch) / "spec.yaml").unlink()
    assert "holds a run without its spec.yaml" in run_error()


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
