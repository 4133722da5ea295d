"""Faults that a run survives or is resumed from. It ends with the bits of an undisturbed run.

Tests with several nodes are in backends/test_node_sums.py, with several hosts in cluster/.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers import workers
from helpers.processes import actors, wait_for
from ray import cloudpickle
from safetensors.numpy import load_file

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.errors import RunError, SpecError
from fedray.results import checkpoint
from fedray.results.run_folder import RunFolder
from fedray.server.driver import Driver
from fedray.study.session import Session
from fedray.workers.worker import Worker

cloudpickle.register_pickle_by_value(workers)  # Ray's processes cannot import from tests/

Make = Callable[..., Experiment]

SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 60},
    "partition": {"kind": "iid", "clients": 3},
    "strategy": {"name": "fml"},
    "training": {"rounds": 30, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "checkpoint": {"every": 10},
}


def bits(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


def finish(experiment: Experiment, folder: Path, worker: type[Worker] = Worker) -> dict[str, bytes]:
    for _ in Driver(experiment, folder, partial(SerialBackend, worker=worker)).run():
        pass
    return bits(folder)


def faults(folder: Path) -> list[list[str]]:
    table = pd.read_csv(folder / "faults.csv", keep_default_na=False)
    return table[["round", "fault", "subject", "response"]].astype(str).to_numpy().tolist()


class TestDisk:
    """A disk that is full or read-only, and files that are cut short."""

    @staticmethod
    @contextmanager
    def full_at(size: int) -> Iterator[None]:
        """Limit files to `size` bytes: writing more raises an OSError, as on a full disk."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @pytest.mark.parametrize(
        ("every", "size", "file", "saved_round"),
        [(1, 50_000, r"weights\.safetensors", 1), (4, 300, r"clients\.csv", 0)],
    )
    def test_a_run_on_a_full_disk_fails_with_one_line_and_resumes(
        self, small: Make, tmp_path: Path, every: int, size: int, file: str, saved_round: int
    ) -> None:
        experiment = small(training={"rounds": 4}, teacher=None, checkpoint={"every": every})
        whole = finish(experiment, tmp_path / "whole")
        rounds = Driver(experiment, tmp_path / "full").run()
        next(rounds)
        with self.full_at(size), pytest.raises(RunError, match=rf"{file}' cannot be written \(.*File too large"):
            next(rounds)
        assert RunFolder(tmp_path / "full").resumable_from == saved_round
        assert finish(experiment, tmp_path / "full") == whole
        assert pd.read_csv(tmp_path / "full" / "rounds.csv")["round"].tolist() == [1, 2, 3, 4]

    @pytest.mark.slow
    @pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [("size=150k", "size=50m", "No space left on device"), ("size=50m,ro", "size=50m,rw", "Read-only file system")],
    )
    def test_a_run_on_a_full_or_read_only_disk_resumes_later(
        self, tmp_path: Path, before: str, after: str, message: str
    ) -> None:
        spec = {**SPEC, "training": {**SPEC["training"], "rounds": 2}, "resources": {"backend": "serial"}}
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        (tmp_path / "disk").mkdir()
        fedray = f"{sys.executable} -m fedray run spec.yaml"
        script = f"""
            mount -t tmpfs -o size=50m none disk
            mount -o remount,{before} disk
            {fedray} --results disk; echo "code $?"
            mount -o remount,{after} disk
            {fedray} --results disk --resume && {fedray} --results plain
            cmp disk/spec/model.safetensors plain/spec/model.safetensors && echo same
        """
        command = ["unshare", "--mount", "sh", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert "code 1" in done.stdout or "code 2" in done.stdout
        assert done.stdout.endswith("same\n")

    def test_a_truncated_checkpoint_is_replaced_by_the_former_one(self, small: Make, tmp_path: Path) -> None:
        experiment = small(strategy={"name": "fml"}, teacher=None)
        whole = finish(experiment, tmp_path / "whole")
        rounds = Driver(experiment, tmp_path / "cut").run()
        for _ in range(2):
            next(rounds)
        rounds.close()
        private = tmp_path / "cut" / "checkpoint" / "clients" / "00001-00002.safetensors"
        private.write_bytes(private.read_bytes()[:-1])
        assert finish(experiment, tmp_path / "cut") == whole
        assert faults(tmp_path / "cut") == [["1", "interrupted", "run", "resumed from round 1"]]
        assert pd.read_csv(tmp_path / "cut" / "rounds.csv")["round"].tolist() == [1, 2, 3]

    @pytest.mark.parametrize("name", ["rounds.csv", "clients.csv", "classes.csv"])
    def test_a_table_that_lacks_rows_resumes_from_the_checkpoint_before(
        self, small: Make, tmp_path: Path, name: str
    ) -> None:
        experiment = small(training={"rounds": 4}, teacher=None)
        whole = finish(experiment, tmp_path / "whole")
        rounds = Driver(experiment, tmp_path / "cut").run()
        for _ in range(3):
            next(rounds)
        rounds.close()
        table = tmp_path / "cut" / name
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))  # the last row of round 3
        assert finish(experiment, tmp_path / "cut") == whole
        for written in ("rounds.csv", "clients.csv", "classes.csv"):
            numbers = [pd.read_csv(tmp_path / folder / written)["round"].tolist() for folder in ("whole", "cut")]
            assert numbers[0] == numbers[1]
        (row,) = pd.read_csv(tmp_path / "cut" / "faults.csv").to_dict("records")
        assert row["response"] == "resumed from round 2"
        assert row["reason"] == "the checkpoint of round 3 is damaged, or a table lacks rows before it or has others"

    def test_tables_that_lack_rows_before_all_checkpoints_are_refused(self, small: Make, tmp_path: Path) -> None:
        experiment = small(training={"rounds": 4}, teacher=None)
        rounds = Driver(experiment, tmp_path).run()
        for _ in range(3):
            next(rounds)
        rounds.close()
        for name in ("classes.csv", "clients.csv"):
            table = tmp_path / name
            content = table.read_text()
            changed = content.replace("\n1,0,", "\n1,7,", 1)  # a digit of round 1
            for damaged in (changed, "".join(content.splitlines(keepends=True)[:2])):
                assert damaged != content
                table.write_text(damaged)
                reason = rf"the rows of {name} up to the checkpoint of round 3 differ .*; delete .* from scratch\.$"
                with pytest.raises(SpecError, match=reason):
                    finish(experiment, tmp_path)
            table.write_text(content)


class TestDeadline:
    class SleepingWorker(Worker):
        """Client 1 is slow in round 2."""

        def prepare(self, task: Any, *others: Any) -> Any:
            time.sleep(3.5 if (task.round, task.client) == (2, 1) else 0)
            return super().prepare(task, *others)

    TRAINING = {"deadline": 3.0, "rounds": 3}  # noqa: RUF012

    def test_a_late_client_that_is_waited_for_changes_no_bit(self, small: Make, tmp_path: Path) -> None:
        experiment = small(training=self.TRAINING, teacher=None)
        whole = finish(experiment, tmp_path / "whole")
        assert finish(experiment, tmp_path / "slow", self.SleepingWorker) == whole
        late = [fault for fault in faults(tmp_path / "slow") if fault[0] == "2"]
        assert ["2", "client late", "client 1", "waited for"] in late
        assert not (tmp_path / "whole" / "faults.csv").read_text().count("late")

    def test_clients_that_start_after_the_deadline_are_dropped(self, small: Make, tmp_path: Path) -> None:
        """Clients train one after another: the sleeping one finishes, the later ones do not start."""
        partition = {"kind": "iid", "clients": 4}  # equal sizes: clients start in their order
        experiment = small(training={**self.TRAINING, "late": "drop"}, teacher=None, partition=partition)
        finish(experiment, tmp_path, self.SleepingWorker)
        rounds, clients = pd.read_csv(tmp_path / "rounds.csv"), pd.read_csv(tmp_path / "clients.csv")
        assert rounds["failed_clients"].tolist() == [0, 2, 0]
        late = clients[clients["failure"].notna()]
        assert late[["round", "client"]].to_numpy().tolist() == [[2, 2], [2, 3]]
        assert late["failure"].unique().tolist() == ["it did not start before the deadline"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestDriverActor:
    @pytest.mark.slow
    def test_a_killed_driver_is_replaced(self, small: Make, tmp_path: Path) -> None:
        sections: dict[str, Any] = {"strategy": {"name": "fml"}, "teacher": None, "training": {"rounds": 5}}
        whole = finish(small(**sections), tmp_path / "whole")
        killed = False
        with Session() as session:
            results = session.run(small(**sections, resources={"backend": "ray"}), tmp_path / "killed")
            for result in results:
                if result.round == 2 and not killed:
                    drivers = [p for p, name in actors(os.getpid()).items() if name == "DriverActor"]
                    os.kill(drivers[-1], signal.SIGKILL)
                    killed = True
        assert bits(tmp_path / "killed") == whole
        assert [fault[1:3] for fault in faults(tmp_path / "killed")] == [["interrupted", "run"]]
        assert pd.read_csv(tmp_path / "killed" / "rounds.csv")["round"].tolist() == [1, 2, 3, 4, 5]


class TestCommand:
    @pytest.fixture
    def whole(self, tmp_path: Path) -> dict[str, bytes]:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
        return finish(Experiment.model_validate(SPEC), tmp_path / "whole")

    @staticmethod
    def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fedray", "run", "spec.yaml", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    @staticmethod
    def rounds(folder: Path) -> int:
        table = folder / "results" / "spec" / "rounds.csv"
        return len(table.read_text().splitlines()) - 1 if table.exists() else 0

    @pytest.mark.parametrize("backend", ["serial", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
    def test_sigterm_saves_the_last_round_and_exits_with_0(
        self, tmp_path: Path, whole: dict[str, bytes], backend: str
    ) -> None:
        process = self.begin(tmp_path, f"resources.backend={backend}")
        wait_for(lambda: self.rounds(tmp_path) >= 2 or process.poll() is not None)
        process.terminate()
        _, errors = process.communicate(timeout=60)
        done = self.rounds(tmp_path)
        assert process.returncode == 0, errors
        command = f"fedray run spec.yaml resources.backend={backend}"
        assert errors == f"fedray: stopped by SIGTERM. Every finished round is saved; resume with: {command}\n"
        assert 2 <= done < 30
        found = checkpoint.load(tmp_path / "results" / "spec" / "checkpoint")
        assert found is not None
        assert found[0].round == done  # although a checkpoint is only due every ten rounds
        assert not (tmp_path / "results" / "spec" / "DONE").exists()
        process = self.begin(tmp_path, "--resume", "resources.backend=serial")
        assert "recovered faults: 1 (interrupted 1)" in process.communicate(timeout=60)[0]
        assert bits(tmp_path / "results" / "spec") == whole
        assert (tmp_path / "results" / "spec" / "DONE").read_text() == "1 of 1 runs\n"

    @pytest.mark.slow
    @pytest.mark.ray
    def test_a_killed_command_resumes_from_the_last_checkpoint(self, tmp_path: Path, whole: dict[str, bytes]) -> None:
        process = self.begin(tmp_path, "checkpoint.every=1")
        wait_for(lambda: self.rounds(tmp_path) >= 2 or process.poll() is not None)
        process.kill()
        process.communicate(timeout=60)
        assert self.rounds(tmp_path) < 30
        process = self.begin(tmp_path, "--resume", "resources.backend=serial")
        _, errors = process.communicate(timeout=90)
        assert process.returncode == 0, errors
        assert bits(tmp_path / "results" / "spec") == whole


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_clients_of_several_killed_workers_are_retried(small: Make, tmp_path: Path) -> None:
    from fedray.backends.ray.actors import RayBackend

    sections: dict[str, Any] = {"strategy": {"name": "fml"}, "teacher": None}
    whole = finish(small(**sections), tmp_path / "whole")
    dying = type("Dying", (workers.DyingWorkers,), {"marks": tmp_path})
    on_ray = small(**sections, resources={"backend": "ray"})
    for _ in Driver(on_ray, tmp_path / "killed", partial(RayBackend, worker=dying)).run():
        pass
    assert bits(tmp_path / "killed") == whole
    retried = [fault for fault in faults(tmp_path / "killed") if fault[3] == "retried"]
    assert sorted(fault[2] for fault in retried) == ["client 0", "client 1", "client 3"]
    rounds = pd.read_csv(tmp_path / "killed" / "rounds.csv", keep_default_na=False)
    assert rounds["retried"].tolist() == ["", "client 0, client 1, client 3", ""]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_hung_client_is_dropped_at_the_deadline(small: Make, tmp_path: Path) -> None:
    from fedray.backends.ray.actors import RayBackend

    training = {"deadline": 4.0, "late": "drop", "rounds": 3}
    experiment = small(training=training, teacher=None, resources={"backend": "ray"})
    start = time.monotonic()
    for _ in Driver(experiment, tmp_path, partial(RayBackend, worker=workers.HangingWorker)).run():
        pass
    assert time.monotonic() - start < 120  # the client hangs for an hour
    clients = pd.read_csv(tmp_path / "clients.csv")
    assert clients[clients["failure"].notna()][["round", "client"]].to_numpy().tolist() == [[2, 2]]
    assert [fault[1:] for fault in faults(tmp_path)] == [["client late", "client 2", "dropped"]]


CROWDED = """
import sys, ray
from pathlib import Path
from fedray.config.experiment import Experiment
from fedray.server.driver import Driver

ray.init(address="local", num_cpus=2, object_store_memory=78_643_200, include_dashboard=False, log_to_driver=False)
for _ in Driver(Experiment.model_validate_json(sys.argv[1]), Path(sys.argv[2])).run():
    pass
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_small_object_store_spills(small: Make, tmp_path: Path) -> None:
    """Global weights, an update and a private model of 45 MB each do not fit into 75 MB."""
    sections: dict[str, Any] = {
        "strategy": {"name": "fml"},
        "proxy": {"name": "resnet18", "stem": "cifar"},
        "partition": {"kind": "iid", "clients": 2},
        "training": {"rounds": 2},
        "teacher": None,
    }
    whole = finish(small(**sections), tmp_path / "whole")
    spec = small(**sections, resources={"backend": "ray"}).model_dump_json()
    command = [sys.executable, "-c", CROWDED, spec, str(tmp_path / "crowded")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert bits(tmp_path / "crowded") == whole
