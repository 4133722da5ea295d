"""docs/extending.md as it stands: its files and commands, in an empty folder outside the package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()


def write_files(folder: Path) -> None:
    """Write each block that follows the name of a file in a line of its own, or at the start of its paragraph."""
    for name, block in re.findall(r"^`([\w.]+)`.*?```\w+\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE):
        (folder / name).write_text(block)


def commands() -> list[str]:
    return [line for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]


def shell(folder: Path, command: str) -> str:
    """Run a command of the page with the fedray and the Python of this test."""
    command = command.replace("fedray", f"{sys.executable} -m fedray", 1) if command.startswith("fedray") else command
    command = command.replace("python -m pytest", f"{sys.executable} -m pytest -p no:cacheprovider")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command.split(), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_page_has_its_files_and_commands(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"fedcm.py", "spec.yaml", "test_fedcm.py", "space.yaml"}
    assert [command.split()[:2] for command in commands()] == [
        ["fedray", "run"], ["python", "-m"], ["fedray", "sweep"], ["fedray", "report"]
    ]  # fmt: skip


def test_algorithm_of_the_page_runs(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert "accuracy" in shell(tmp_path, commands()[0] + " resources.backend=serial training.rounds=1")


@pytest.mark.slow
def test_every_command_of_the_page(tmp_path: Path) -> None:
    write_files(tmp_path)
    for command in commands():
        shell(tmp_path, command)
    report = next((tmp_path / "reports").rglob("*.html")).read_text()
    assert all(label in report for label in ("FedCM", "SCAFFOLD", "FedAvg"))
