"""The script for Slurm, and jobs that it runs on a Slurm of one node that is started for them."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.slurm import Slurm, missing, started

from fedray.config import loader
from fedray.study.session import run

SCRIPTS = sorted((Path(__file__).parents[2] / "launch" / "slurm").glob("*.sbatch"))
SCRIPT = next(script for script in SCRIPTS if script.name == "fedray.sbatch")
SPEC = """
data: {train: digits, test: digits, train_limit: 200, test_limit: 60}
partition: {kind: iid, clients: 3}
training: {rounds: ROUNDS, batch_size: 16, lr: 0.05}
"""

on_slurm = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with started(tmp_path_factory.mktemp("slurm"), gpus=2) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where jobs are submitted."""
    for name, rounds in (("short", 3), ("long", 250)):
        (tmp_path / f"{name}.yaml").write_text(SPEC.replace("ROUNDS", str(rounds)))
    return tmp_path


def submit(slurm: Slurm, folder: Path, *arguments: str) -> str:
    """The job's id."""
    return slurm("sbatch", "--parsable", *arguments, cwd=folder)


def log_of(folder: Path, job: str) -> str:
    return (folder / f"fedray-{job}.log").read_text()


def wait_for_rounds(run_folder: Path, number: int) -> None:
    """Until so many rounds are on disk."""
    deadline = time.monotonic() + 180
    while (
        not (run_folder / "rounds.csv").exists() or len((run_folder / "rounds.csv").read_text().splitlines()) <= number
    ):
        assert time.monotonic() < deadline, f"no {number} rounds in {run_folder}"
        time.sleep(0.2)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        said = subprocess.run(["shellcheck", script], capture_output=True, text=True)
        assert said.returncode == 0, said.stdout


@pytest.mark.parametrize(
    "words", [[], ["fedray"], ["fedray", "plan", "a.yaml"], ["fedray", "run", "--quiet", "a.yaml"]]
)
def test_anything_but_a_whole_command_is_one_sentence(words: list[str]) -> None:
    said = subprocess.run(["bash", SCRIPT, *words], capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == (
        "fedray.sbatch: give the whole command, as in: sbatch fedray.sbatch fedray run SPEC.yaml --results DIR\n"
    )


def test_a_line_that_the_list_of_an_array_has_not_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.yaml\n")
    command = ["bash", str(SCRIPT), "fedray", "run", f"@{tmp_path / 'list'}"]
    said = subprocess.run(command, env=os.environ | {"SLURM_ARRAY_TASK_ID": "2"}, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (2, f"fedray.sbatch: {tmp_path / 'list'} has no line 2.\n")


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_job_that_is_stopped_and_then_killed_goes_on_to_the_same_bits(slurm: Slurm, folder: Path) -> None:
    (alone,) = loader.load(folder / "long.yaml", ["resources.backend=serial"])
    for _ in run(alone.experiment, folder / "undisturbed"):
        pass
    job = submit(slurm, folder, str(SCRIPT), "fedray", "run", "long.yaml")
    wait_for_rounds(folder / "results/long", 5)
    slurm("scancel", "--signal=TERM", "--batch", job)  # what Slurm sends before it takes the node away
    slurm.wait(job, "PENDING")
    assert "told to stop" in log_of(folder, job)
    slurm.wait(job, "RUNNING")
    reached = len((folder / "results/long/rounds.csv").read_text().splitlines())
    wait_for_rounds(folder / "results/long", reached + 5)
    slurm("scontrol", "requeue", job)  # all its processes are ended
    assert not (folder / "results/long/DONE").exists()
    ended = slurm.wait(job, "COMPLETED", "FAILED")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "2"), log_of(folder, job)
    assert (folder / "results/long/DONE").exists()
    made, expected = ((folder / name / "model.safetensors").read_bytes() for name in ("results/long", "undisturbed"))
    assert made == expected


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
def test_a_job_that_is_stopped_more_often_than_it_may_has_failed(
    slurm: Slurm, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDRAY_REQUEUES", "0")
    job = submit(slurm, folder, str(SCRIPT), "fedray", "run", "long.yaml")
    wait_for_rounds(folder / "results/long", 2)
    slurm("scancel", "--signal=TERM", "--batch", job)
    assert slurm.wait(job, "COMPLETED", "FAILED")["JobState"] == "FAILED"
    assert "requeued 0 times already; submit it again to go on." in log_of(folder, job)


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
def test_a_job_that_its_user_cancels_does_not_come_back(slurm: Slurm, folder: Path) -> None:
    job = submit(slurm, folder, str(SCRIPT), "fedray", "run", "long.yaml")
    wait_for_rounds(folder / "results/long", 2)
    slurm("scancel", job)
    slurm.wait(job, "CANCELLED")
    time.sleep(10)  # longer than Slurm gives its processes to end
    assert slurm.show(job)["JobState"] == "CANCELLED"
    assert slurm.show(job)["Restarts"] == "0"


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
def test_an_array_runs_the_study_of_each_line(slurm: Slurm, folder: Path) -> None:
    for name in ("one", "other"):
        (folder / f"{name}.yaml").write_text("base: short.yaml\nspace: {seed: {grid: [0, 1]}}\n")
    (folder / "studies").write_text("one.yaml\nother.yaml\n")
    job = submit(slurm, folder, "--array=1-2", str(SCRIPT), "fedray", "sweep", "@studies", "--results=out")
    for task in (1, 2):
        ended = slurm.wait(f"{job}_{task}", "COMPLETED", "FAILED")
        assert ended["JobState"] == "COMPLETED", log_of(folder, ended["JobId"])
    assert sorted(path.parent.name for path in folder.glob("out/*/DONE")) == ["one", "other"]


@on_slurm
@pytest.mark.slow
@pytest.mark.ray
def test_a_spec_that_cannot_be_used_fails_the_job_with_its_sentence(slurm: Slurm, folder: Path) -> None:
    job = submit(slurm, folder, str(SCRIPT), "fedray", "run", "short.yaml", "training.rounds=many")
    ended = slurm.wait(job, "COMPLETED", "FAILED")
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0")
    assert "fedray: short.yaml: training.rounds is 'many', but must be a valid integer.\n" in log_of(folder, job)


@on_slurm
@pytest.mark.slow
def test_gpus_are_asked_for_on_the_command_line(slurm: Slurm, folder: Path) -> None:
    command = ("fedray", "run", "short.yaml")
    assert "to start at" in slurm("sbatch", "--test-only", "--gpus-per-node=2", str(SCRIPT), *command, cwd=folder)
    with pytest.raises(AssertionError, match="Requested node configuration is not available"):
        slurm("sbatch", "--test-only", "--gpus-per-node=3", str(SCRIPT), *command, cwd=folder)
