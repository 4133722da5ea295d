"""Faults that a run survives, or is resumed from: it ends in the bits of an undisturbed one.

What needs several nodes is in backends/test_nodes.py, and real hosts are in cluster/.
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
from fedray.errors import RunError
from fedray.results import checkpoint
from fedray.results.run_folder import RunFolder
from fedray.server.driver import Driver
from fedray.study.session import Session
from fedray.types import RoundResult
from fedray.workers.worker import Worker

cloudpickle.register_pickle_by_value(workers)  # Ray's processes cannot import from tests/

Make = Callable[..., Experiment]

SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 60},
    "partition": {"kind": "iid", "clients": 3},
    "strategy": {"name": "fml"},
    "training": {"rounds": 30, "batch_size": 16, "lr": 0.05},
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


class TestTheDisk:
    """Full, read-only, or holding half of what was written."""

    @staticmethod
    @contextmanager
    def full_at(size: int) -> Iterator[None]:
        """No file may grow beyond so many bytes: what the kernel says then is an OSError, as on a full disk."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @pytest.mark.parametrize(
        ("every", "size", "what", "kept"), [(1, 50_000, r"weights\.safetensors", 1), (4, 300, r"clients\.csv", 0)]
    )
    def test_full_in_the_middle_one_sentence_and_the_run_goes_on_later(
        self, small: Make, tmp_path: Path, every: int, size: int, what: str, kept: int
    ) -> None:
        experiment = small(training={"rounds": 4}, teacher=None, checkpoint={"every": every})
        whole = finish(experiment, tmp_path / "whole")
        rounds = Driver(experiment, tmp_path / "full").run()
        next(rounds)
        with self.full_at(size), pytest.raises(RunError, match=rf"{what}' cannot be written \(.*File too large"):
            next(rounds)
        assert RunFolder(tmp_path / "full").resumable_from == kept
        assert finish(experiment, tmp_path / "full") == whole
        assert pd.read_csv(tmp_path / "full" / "rounds.csv")["round"].tolist() == [1, 2, 3, 4]

    @pytest.mark.slow
    @pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
    @pytest.mark.parametrize(
        ("before", "after", "said"),
        [("size=150k", "size=50m", "No space left on device"), ("size=50m,ro", "size=50m,rw", "Read-only file system")],
    )
    def test_a_real_disk_that_is_full_or_read_only(self, tmp_path: Path, before: str, after: str, said: str) -> None:
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
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert "code 1" in done.stdout or "code 2" in done.stdout
        assert done.stdout.endswith("same\n")

    def test_a_checkpoint_cut_short_falls_back_to_the_one_before(self, small: Make, tmp_path: Path) -> None:
        experiment = small(strategy={"name": "fml"}, teacher=None)
        whole = finish(experiment, tmp_path / "whole")
        rounds = Driver(experiment, tmp_path / "cut").run()
        for _ in range(2):
            next(rounds)
        rounds.close()
        private = tmp_path / "cut" / "checkpoint" / "private" / "00001-00002.safetensors"
        private.write_bytes(private.read_bytes()[:-1])
        assert finish(experiment, tmp_path / "cut") == whole
        assert faults(tmp_path / "cut") == [["1", "interrupted", "run", "went on from round 1"]]
        assert pd.read_csv(tmp_path / "cut" / "rounds.csv")["round"].tolist() == [1, 2, 3]


class TestADeadline:
    class Sleeping(Worker):
        """Client 1 is slow in round 2."""

        def train(self, task: Any, *others: Any) -> Any:
            time.sleep(3.5 if (task.round, task.client) == (2, 1) else 0)
            return super().train(task, *others)

    TRAINING = {"deadline": 3.0, "rounds": 3}  # noqa: RUF012

    def test_who_waits_reports_and_has_the_same_bits(self, small: Make, tmp_path: Path) -> None:
        experiment = small(training=self.TRAINING, teacher=None)
        whole = finish(experiment, tmp_path / "whole")
        assert finish(experiment, tmp_path / "slow", self.Sleeping) == whole
        late = [fault for fault in faults(tmp_path / "slow") if fault[0] == "2"]
        assert ["2", "client late", "client 1", "waited for"] in late
        assert not (tmp_path / "whole" / "faults.csv").read_text().count("late")

    def test_who_drops_goes_on_without_those_that_have_not_begun(self, small: Make, tmp_path: Path) -> None:
        """Here the clients take turns: the one that sleeps is waited for, those behind it are not begun."""
        partition = {"kind": "iid", "clients": 4}  # all alike: they are begun in their order
        experiment = small(training={**self.TRAINING, "late": "drop"}, teacher=None, partition=partition)
        finish(experiment, tmp_path, self.Sleeping)
        rounds, clients = pd.read_csv(tmp_path / "rounds.csv"), pd.read_csv(tmp_path / "clients.csv")
        assert rounds["failed_clients"].tolist() == [0, 2, 0]
        late = clients[clients["failure"].notna()]
        assert late[["round", "client"]].to_numpy().tolist() == [[2, 2], [2, 3]]
        assert late["failure"].unique().tolist() == ["it was not begun in time"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestTheDriver:
    @pytest.mark.slow
    def test_killed_in_the_middle_another_goes_on(self, small: Make, tmp_path: Path) -> None:
        """Without the user doing anything."""
        sections: dict[str, Any] = {"strategy": {"name": "fml"}, "teacher": None, "training": {"rounds": 5}}
        whole = finish(small(**sections), tmp_path / "whole")
        killed = False
        with Session() as session:
            events = session.run(small(**sections, resources={"backend": "ray"}), tmp_path / "killed")
            for event in events:
                if isinstance(event, RoundResult) and event.round == 2 and not killed:
                    drivers = [p for p, name in actors(os.getpid()).items() if name == "DriverActor"]
                    os.kill(drivers[-1], signal.SIGKILL)
                    killed = True
        assert bits(tmp_path / "killed") == whole
        assert [fault[1:3] for fault in faults(tmp_path / "killed")] == [["interrupted", "run"]]
        assert pd.read_csv(tmp_path / "killed" / "rounds.csv")["round"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.ray
class TestTheCommand:
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

    @pytest.mark.parametrize("backend", ["serial", pytest.param("ray", marks=pytest.mark.slow)])
    def test_sigterm_saves_the_last_round_and_ends_with_0(
        self, tmp_path: Path, whole: dict[str, bytes], backend: str
    ) -> None:
        process = self.begin(tmp_path, f"resources.backend={backend}")
        wait_for(lambda: self.rounds(tmp_path) >= 2 or process.poll() is not None)
        process.terminate()
        _, said = process.communicate(timeout=60)
        done = self.rounds(tmp_path)
        assert process.returncode == 0, said
        again = f"fedray run spec.yaml resources.backend={backend} --resume"
        assert said == f"fedray: stopped by SIGTERM. Every finished round is saved; resume with: {again}\n"
        assert 2 <= done < 30
        found = checkpoint.load(tmp_path / "results" / "spec" / "checkpoint")
        assert found is not None
        assert found[0].round == done  # though a checkpoint is only due each tenth round
        assert not (tmp_path / "results" / "spec" / "DONE").exists()
        process = self.begin(tmp_path, "--resume", "resources.backend=serial")
        assert "recovered faults: 1 (interrupted 1)" in process.communicate(timeout=60)[0]
        assert bits(tmp_path / "results" / "spec") == whole
        assert (tmp_path / "results" / "spec" / "DONE").read_text() == "1 of 1 runs\n"

    @pytest.mark.slow
    def test_killed_with_9_it_is_resumed_from_the_last_checkpoint(
        self, tmp_path: Path, whole: dict[str, bytes]
    ) -> None:
        process = self.begin(tmp_path, "checkpoint.every=1")
        wait_for(lambda: self.rounds(tmp_path) >= 2 or process.poll() is not None)
        process.kill()
        process.communicate(timeout=60)
        assert self.rounds(tmp_path) < 30
        process = self.begin(tmp_path, "--resume", "resources.backend=serial")
        _, said = process.communicate(timeout=90)
        assert process.returncode == 0, said
        assert bits(tmp_path / "results" / "spec") == whole


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_several_clients_killed_at_once(small: Make, tmp_path: Path) -> None:
    from fedray.backends.ray.actors import RayBackend

    sections: dict[str, Any] = {"strategy": {"name": "fml"}, "teacher": None}
    whole = finish(small(**sections), tmp_path / "whole")
    dying = type("Dying", (workers.DyingWorkers,), {"marks": tmp_path})
    on_ray = small(**sections, resources={"backend": "ray"})
    for _ in Driver(on_ray, tmp_path / "killed", partial(RayBackend, worker=dying)).run():
        pass
    assert bits(tmp_path / "killed") == whole
    again = [fault for fault in faults(tmp_path / "killed") if fault[3] == "made again"]
    assert sorted(fault[2] for fault in again) == ["client 0", "client 1", "client 3"]
    rounds = pd.read_csv(tmp_path / "killed" / "rounds.csv", keep_default_na=False)
    assert rounds["retried"].tolist() == ["", "client 0, client 1, client 3", ""]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_hung_client_is_dropped_at_the_deadline_and_its_actor_replaced(small: Make, tmp_path: Path) -> None:
    from fedray.backends.ray.actors import RayBackend

    training = {"deadline": 4.0, "late": "drop", "rounds": 3}
    experiment = small(training=training, teacher=None, resources={"backend": "ray"})
    begun = time.monotonic()
    for _ in Driver(experiment, tmp_path, partial(RayBackend, worker=workers.HangingWorker)).run():
        pass
    assert time.monotonic() - begun < 120  # it hangs for an hour
    clients = pd.read_csv(tmp_path / "clients.csv")
    assert clients[clients["failure"].notna()][["round", "client"]].to_numpy().tolist() == [[2, 2]]
    assert [fault[1:] for fault in faults(tmp_path)] == [["client late", "client 2", "dropped"]]


CROWDED = """
import sys, ray
from pathlib import Path
from fedray.config.experiment import Experiment
from fedray.driver import Driver

ray.init(address="local", num_cpus=2, object_store_memory=78_643_200, include_dashboard=False, log_to_driver=False)
for _ in Driver(Experiment.model_validate_json(sys.argv[1]), Path(sys.argv[2])).run():
    pass
"""


@pytest.mark.slow
@pytest.mark.ray
def test_an_object_store_that_is_too_small_spills(small: Make, tmp_path: Path) -> None:
    """Global weights, an update and a private model of 45 MB each, in a store of 75 MB."""
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
