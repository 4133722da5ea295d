"""The command works where its output is closed, in ASCII, or on a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedray

SPEC = """
data: {train_limit: 60, test_limit: 20}
training: {rounds: 1}
partition: {kind: iid, clients: 2}
resources: {backend: serial}
"""


def fedray_in_shell(folder: Path, arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `fedray ARGUMENTS`, which may have redirections, in a shell."""
    source = str(Path(fedray.__file__).parents[1])
    return subprocess.run(
        f"'{sys.executable}' -m fedray {arguments}", shell=True, cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": source, **environment},
    )  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


@pytest.mark.parametrize(
    "closed",
    [
        pytest.param(">&-", marks=pytest.mark.slow),
        pytest.param("2>&-", marks=pytest.mark.slow),
        "<&- >&- 2>&-",
    ],
)
def test_run_with_closed_streams(spec: Path, closed: str) -> None:
    done = fedray_in_shell(spec, f"run spec.yaml {closed}")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (spec / "results" / "spec" / "DONE").read_text() == "1 of 1 runs\n"


@pytest.mark.slow
def test_table_in_ascii(spec: Path) -> None:
    for seed in (0, 1):
        (spec / f"seed{seed}.yaml").write_text(SPEC + f"seed: {seed}\n")
        assert fedray_in_shell(spec, f"run seed{seed}.yaml").returncode == 0
    done = fedray_in_shell(spec, "results results", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert " +- " in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["schema", "--help", "teachers list"])
def test_output_to_a_full_disk_is_one_sentence(spec: Path, arguments: str) -> None:
    done = fedray_in_shell(spec, f"{arguments} >/dev/full")
    assert done.returncode == 1
    assert done.stderr == "fedray: the output cannot be written (No space left on device).\n"


def test_error_with_closed_output_is_one_sentence(spec: Path) -> None:
    done = fedray_in_shell(spec, "results nowhere >&-")
    assert (done.returncode, done.stderr) == (2, "fedray: 'nowhere' holds no results.\n")
