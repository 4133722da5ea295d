"""launch/slurm: the script itself, and jobs on a Slurm of one node that the tests start."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.slurm import Slurm, missing_requirement, start_slurm

from fedray.config import loader
from fedray.study.session import rounds as run

SCRIPTS = sorted((Path(__file__).parents[2] / "launch" / "slurm").glob("*.sbatch"))
SCRIPT = next(script for script in SCRIPTS if script.name == "fedray.sbatch")
SPEC = """
data: {train: digits, test: digits, train_limit: 200, test_limit: 60}
partition: {kind: iid, clients: 3}
training: {rounds: ROUNDS, batch_size: 16, optimizer: {lr: 0.05}}
"""

on_slurm = pytest.mark.skipif(bool(missing_requirement()), reason=missing_requirement())


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with start_slurm(tmp_path_factory.mktemp("slurm"), gpus=2) as slurm:
        yield slurm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder from which jobs are submitted, with a short and a long spec."""
    for name, rounds in (("short", 3), ("long", 250)):
        (tmp_path / f"{name}.yaml").write_text(SPEC.replace("ROUNDS", str(rounds)))
    return tmp_path


def submit(slurm: Slurm, folder: Path, *arguments: str) -> str:
    """Submit a job and return its id."""
    return slurm("sbatch", "--parsable", *arguments, cwd=folder)


def count_lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def read_weights(run_folder: Path) -> bytes:
    return (run_folder / "model.safetensors").read_bytes()


def log_of(folder: Path, job: str) -> str:
    return (folder / f"fedray-{job}.log").read_text()


def wait_for_rounds(run_folder: Path, number: int) -> None:
    """Wait until rounds.csv has `number` rounds."""
    deadline = time.monotonic() + 180
    while count_lines(run_folder / "rounds.csv") <= number:
        assert time.monotonic() < deadline, f"no {number} rounds in {run_folder}"
        time.sleep(0.2)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_is_valid_shell(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        result = subprocess.run(["shellcheck", script], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "words", [[], ["fedray"], ["fedray", "plan", "a.yaml"], ["fedray", "run", "--quiet", "a.yaml"]]
)
def test_incomplete_command_is_refused(words: list[str]) -> None:
    result = subprocess.run(["bash", SCRIPT, *words], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "fedray.sbatch: expected a fedray command, as in: sbatch fedray.sbatch fedray run SPEC.yaml --results DIR\n"
    )


def test_missing_line_of_an_array_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.yaml\n")
    command = ["bash", str(SCRIPT), "fedray", "run", f"@{tmp_path / 'list'}"]
    result = subprocess.run(command, env=os.environ | {"SLURM_ARRAY_TASK_ID": "2"}, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, f"fedray.sbatch: {tmp_path / 'list'} has no line 2.\n")


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_stopped_and_killed_job_resumes_to_the_same_weights(slurm: Slurm, folder: Path) -> None:
    (single,) = loader.load(folder / "long.yaml", ["resources.backend=serial"])
    for _ in run(single.experiment, folder / "uninterrupted"):
        pass
    job = submit(slurm, folder, str(SCRIPT), "fedray", "run", "long.yaml")
    wait_for_rounds(folder / "results/long", 5)
    slurm("scancel", "--signal=TERM", "--batch", job)  # as Slurm does before it takes the node away
    slurm.wait(job, "PENDING")
    assert "received SIGTERM" in log_of(folder, job)
    slurm.wait(job, "RUNNING")
    wait_for_rounds(folder / "results/long", count_lines(folder / "results/long/rounds.csv") + 5)
    slurm("scontrol", "requeue", job)  # Slurm kills all its processes
    assert not (folder / "results/long/DONE").exists()
    state = slurm.wait(job, "COMPLETED", "FAILED")
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "2"), log_of(folder, job)
    assert (folder / "results/long/DONE").exists()
    assert read_weights(folder / "results/long") == read_weights(folder / "uninterrupted")


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
def test_job_fails_after_the_maximum_number_of_requeues(
    slurm: Slurm, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDRAY_REQUEUES", "0")
    job = submit(slurm, folder, str(SCRIPT), "fedray", "run", "long.yaml")
    wait_for_rounds(folder / "results/long", 2)
    slurm("scancel", "--signal=TERM", "--batch", job)
    assert slurm.wait(job, "COMPLETED", "FAILED")["JobState"] == "FAILED"
    assert "stopped after 0 requeues, the limit; submit the job again to resume." in log_of(folder, job)


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
def test_cancelled_job_is_not_requeued(slurm: Slurm, folder: Path) -> None:
    job = submit(slurm, folder, str(SCRIPT), "fedray", "run", "long.yaml")
    wait_for_rounds(folder / "results/long", 2)
    slurm("scancel", job)
    slurm.wait(job, "CANCELLED")
    time.sleep(10)  # longer than Slurm waits for processes to end
    assert slurm.show(job)["JobState"] == "CANCELLED"
    assert slurm.show(job)["Restarts"] == "0"


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
def test_job_array_runs_one_study_per_line(slurm: Slurm, folder: Path) -> None:
    for name in ("first", "second"):
        (folder / f"{name}.yaml").write_text("base: short.yaml\nspace: {seed: {grid: [0, 1]}}\n")
    (folder / "studies").write_text("first.yaml\nsecond.yaml\n")
    job = submit(slurm, folder, "--array=1-2", str(SCRIPT), "fedray", "sweep", "@studies", "--results=out")
    for task in (1, 2):
        state = slurm.wait(f"{job}_{task}", "COMPLETED", "FAILED")
        assert state["JobState"] == "COMPLETED", log_of(folder, state["JobId"])
    assert sorted(path.parent.name for path in folder.glob("out/*/DONE")) == ["first", "second"]


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
def test_invalid_spec_fails_the_job_with_its_message(slurm: Slurm, folder: Path) -> None:
    job = submit(slurm, folder, str(SCRIPT), "fedray", "run", "short.yaml", "training.rounds=many")
    state = slurm.wait(job, "COMPLETED", "FAILED")
    assert (state["JobState"], state["ExitCode"]) == ("FAILED", "2:0")
    assert "fedray: short.yaml: training.rounds is 'many', but must be a valid integer.\n" in log_of(folder, job)


@on_slurm
@pytest.mark.slow
def test_number_of_gpus_is_an_option_of_sbatch(slurm: Slurm, folder: Path) -> None:
    command = ("fedray", "run", "short.yaml")
    assert "to start at" in slurm("sbatch", "--test-only", "--gpus-per-node=2", str(SCRIPT), *command, cwd=folder)
    with pytest.raises(AssertionError, match="Requested node configuration is not available"):
        slurm("sbatch", "--test-only", "--gpus-per-node=3", str(SCRIPT), *command, cwd=folder)
