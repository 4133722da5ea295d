"""Ray's own processes are killed while a command runs, as the kernel does where memory is short.

The command goes on with the bits of an undisturbed run, or ends with one sentence and exit code 1.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from helpers.nodes import cluster
from helpers.processes import ray_processes, wait_for

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.errors import RayLostError
from fedray.server.driver import Driver
from fedray.study.session import Session

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 60},
    "partition": {"kind": "iid", "clients": 3},
    "strategy": {"name": "fml"},
    "training": {"rounds": 12, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "checkpoint": {"every": 3},
}
REACTION_S = 90
"""Seconds from a kill to the sentence on it."""
END_S = 240
"""Seconds to finish the rounds that are left, on a busy machine."""
HINT = "Every finished round is saved; resume with: fedray"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model of an undisturbed serial run."""
    folder = tmp_path_factory.mktemp("whole")
    for _ in Driver(Experiment.model_validate(SPEC), folder, partial(SerialBackend)).run():
        pass
    return (folder / "model.safetensors").read_bytes()


class Command:
    """A command of fedray on a Ray of its own, or on the cluster that the environment names."""

    def __init__(self, folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "fedray", *words]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment or inherited, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def errors(self) -> str:
        return (self.folder / "err").read_text()

    def wait_for_round(self, round_: int) -> None:
        """Wait until a run has finished a round."""
        wait_for(lambda: self._rounds() >= round_ or self.process.poll() is not None)
        assert self.process.poll() is None, self.errors

    def kill(self, name: str, root: int | None = None) -> None:
        """Kill one of the command's processes, or of the descendants of `root`."""
        found = [process for process, title in ray_processes(root or self.process.pid).items() if title == name]
        os.kill(found[-1], signal.SIGKILL)

    def _rounds(self) -> int:
        tables = self.folder.glob("results/spec/**/rounds.csv")
        return max((len(table.read_text().splitlines()) - 1 for table in tables), default=0)


def model(folder: Path) -> bytes:
    (path,) = folder.glob("results/spec/**/model.safetensors")
    return path.read_bytes()


@pytest.mark.parametrize("name", ["raylet", "gcs_server", "DashboardAgent", "RuntimeEnvAgent", "log_monitor"])
def test_a_run_goes_on_after_one_of_rays_processes_is_killed(tmp_path: Path, whole: bytes, name: str) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    command = Command(tmp_path, "run", "spec.yaml")
    command.wait_for_round(4)
    before = set(ray_processes(command.process.pid))
    command.kill(name)
    if name != "log_monitor":
        wait_for(lambda: "Ray was lost" in command.errors, REACTION_S)
    assert command.process.wait(END_S) == 0, command.errors
    assert model(tmp_path) == whole
    killed = "gcs_server" if name == "gcs_server" else "raylet"  # a raylet ends where one of its agents has ended
    lost = f"fedray: Ray was lost: its process {killed} has ended (perhaps memory ran out); the command starts it again"
    assert command.errors == ("" if name == "log_monitor" else f"{lost} and resumes (1 of 3).\n")
    wait_for(lambda: not any(psutil.pid_exists(process) for process in before), timeout_s=5)


@pytest.mark.parametrize("name", ["SharedObjects", "raylet"])
def test_a_sweep_goes_on(tmp_path: Path, whole: bytes, name: str) -> None:
    space = {"base": SPEC, "space": {"seed": {"grid": [0, 1]}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(space))
    command = Command(tmp_path, "sweep", "spec.yaml")
    command.wait_for_round(4)
    command.kill(name)
    wait_for(lambda: "starts it again and resumes (1 of 3)" in command.errors, REACTION_S)
    assert command.process.wait(END_S) == 0, command.errors
    assert "Traceback" not in command.errors
    (first,) = tmp_path.glob("results/spec/seed=0-*/model.safetensors")
    assert first.read_bytes() == whole
    assert len(list(tmp_path.glob("results/spec/seed=*/model.safetensors"))) == 2


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_run_on_a_cluster_that_it_joined_ends_with_one_sentence(tmp_path: Path, whole: bytes, name: str) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    with cluster(1) as environment:
        command = Command(tmp_path, "run", "spec.yaml", environment=environment)
        command.wait_for_round(4)
        folder = environment["FEDRAY_CLUSTER"]
        (process,) = (
            each
            for each in psutil.process_iter()
            if each.name() == name and any(folder in word for word in each.cmdline())
        )
        process.kill()
        assert command.process.wait(REACTION_S) == 1, command.errors
    assert command.errors.startswith("fedray: Ray was lost: ")
    assert f"{HINT} run spec.yaml --resume\n" in command.errors
    assert "Traceback" not in command.errors
    again = Command(tmp_path, "run", "spec.yaml", "--resume", "resources.backend=serial")
    assert again.process.wait(END_S) == 0, again.errors
    assert model(tmp_path) == whole


def test_sigterm_to_ray_as_well_ends_the_command_with_0(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    command = Command(tmp_path, "run", "spec.yaml", "training.rounds=500")
    command.wait_for_round(4)
    for process in [*ray_processes(command.process.pid), command.process.pid]:
        os.kill(process, signal.SIGTERM)
    assert command.process.wait(REACTION_S) == 0
    assert command.errors.count("fedray: stopped by SIGTERM.") == 1
    assert "starts it again" not in command.errors


def test_a_program_that_calls_fedray_gets_the_error_and_may_run_again(tmp_path: Path, whole: bytes) -> None:
    experiment, folder = Experiment.model_validate(SPEC), tmp_path / "results" / "spec"
    with Session() as session, pytest.raises(RayLostError, match="Ray was lost: its process raylet has ended"):  # noqa: PT012
        for result in session.run(experiment, folder):
            if result.round == 4:
                (raylet,) = (child for child in psutil.Process().children() if child.name() == "raylet")
                raylet.kill()
                lost_at = time.monotonic()
    assert time.monotonic() - lost_at < REACTION_S
    with Session() as session:
        for _ in session.run(experiment, folder, resume=True):
            pass
    assert model(tmp_path) == whole
