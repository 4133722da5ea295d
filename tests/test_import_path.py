"""Files of the working folder do not replace installed packages, and are found all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedray import import_path

SHADOWING = ("analysis", "launch", "yaml", "typer", "torch", "pandas", "pydantic", "safetensors")
SPEC = """
data: {train_limit: 60, test_limit: 20}
training: {rounds: 1}
partition: {kind: iid, clients: 2}
"""


def run_among_own_modules(folder: Path, backend: str) -> subprocess.CompletedProcess[str]:
    for name in SHADOWING:
        (folder / f"{name}.py").write_text(f'raise SystemExit("{name}.py of the working folder was imported")')
    (folder / "spec.yaml").write_text(SPEC)
    source = str(Path(import_path.__file__).parents[1])
    command = [sys.executable, "-m", "fedray", "run", "spec.yaml", f"resources.backend={backend}"]
    command.append("resources.clients_per_actor=2")
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, check=False
    )


def test_own_modules_do_not_break_a_run(tmp_path: Path) -> None:
    done = run_among_own_modules(tmp_path, "serial")
    assert done.returncode == 0, done.stderr
    assert "tables: " in done.stdout


@pytest.mark.ray
def test_own_modules_do_not_break_workers(tmp_path: Path) -> None:
    done = run_among_own_modules(tmp_path, "ray")
    assert done.returncode == 0, done.stderr
    assert "tables: " in done.stdout


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The import path of a process in the folder `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/library"])
    return sys.path


def test_working_folder_comes_last(path: list[str], tmp_path: Path) -> None:
    assert path[0] == str(tmp_path)
    import_path.move_working_folder_last()
    import_path.add_working_folder()
    assert sys.path == ["/library", str(tmp_path)]


def test_working_folder_is_added_for_the_installed_command(path: list[str], tmp_path: Path) -> None:
    path[:] = ["/bin", "/library"]
    import_path.move_working_folder_last()
    assert sys.path == ["/bin", "/library", str(tmp_path)]


def test_folders_of_the_job_come_last_in_a_worker(path: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import_path.move_job_folders_last()
    assert sys.path[1:] == ["/library"]  # not a worker
    monkeypatch.setattr(sys, "argv", ["/ray/workers/default_worker.py"])
    path[:] = ["/mine", "/scripts", "/ray/workers", "/library"]
    import_path.move_job_folders_last()
    assert sys.path == ["/ray/workers", "/library", "/mine", "/scripts"]
