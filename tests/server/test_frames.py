"""The number of fedray's stack frames from the command to the SGD step."""

import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import cloudpickle

import fedray
from fedray.cli.run import run
from fedray.config.experiment import Experiment
from fedray.losses.terms import TERMS
from fedray.workers.requests import TrainClients
from fedray.workers.worker import Worker

SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 60, "test_limit": 20},
    "partition": {"kind": "iid", "clients": 2},
    "training": {"rounds": 1},
}
PACKAGE = str(Path(fedray.__file__).parent)


def frames(last: str) -> list[str]:
    """fedray's functions on the stack, from the outermost one to the function `last`."""
    stack = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
    names = [f"{Path(frame.filename).stem}.{frame.name}" for frame in stack]
    is_tried = "try_batch.try_batch" in names  # the check before training takes a step, too
    return names[: names.index(last) + 1] if last in names and not is_tried else []


def recorded(function: Callable[..., Any], last: str, file: Path) -> Callable[..., Any]:
    """Return a function that also writes its stack to a file, the first time that it is called."""

    def call(*arguments: Any, **options: Any) -> Any:
        if not file.exists() and (stack := frames(last)):
            file.write_text("\n".join(stack))
        return function(*arguments, **options)

    return call


def test_serial_run_has_nine_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = recorded(TERMS["cross_entropy"], "local_update._step", tmp_path / "frames")
    monkeypatch.setitem(TERMS, "cross_entropy", recording)  # type: ignore[arg-type]  # a dict
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    run(tmp_path / "spec.yaml", ["resources.backend=serial"], str(tmp_path / "results"), quiet=True)
    assert (tmp_path / "frames").read_text().splitlines() == [
        "run.run",
        "session.run",
        "driver.run",
        "cohort.train",
        "serial.run",
        "worker.handle",
        "worker._train_clients",
        "local_update.local_update",
        "local_update._step",
    ]


class RecordingWorker(Worker):
    """Records the stack of the first SGD step in its process."""

    file: Path

    def __init__(self, *arguments: Any) -> None:
        from fedray.losses.terms import TERMS  # of the worker's process: a global would be pickled with this class

        super().__init__(*arguments)
        TERMS["cross_entropy"] = recorded(TERMS["cross_entropy"], "local_update._step", self.file)  # type: ignore[index]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_run_has_six_frames_in_the_driver_and_five_in_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor's class runs in this process, which sees its stack."""
    from fedray.backends.ray.actors import RayBackend
    from fedray.study.driver_actor import DriverActor

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import from tests/
    worker = type("RecordingWorkerOfTest", (RecordingWorker,), {"file": tmp_path / "worker"})
    monkeypatch.setattr("fedray.backends.ray.actors.RayBackend", partial(RayBackend, worker=worker))
    monkeypatch.setattr(
        TrainClients,
        "with_files_read",
        recorded(TrainClients.with_files_read, "dispatch._submit", tmp_path / "driver"),
    )
    actor = DriverActor(str(Path.cwd()))
    experiment = Experiment.model_validate({**SPEC, "resources": {"clients_per_actor": 2}})
    list(actor.run(experiment, tmp_path / "cache", tmp_path / "results", ["fedray"], 0, False))
    actor._pool.close()
    assert (tmp_path / "driver").read_text().splitlines() == [
        "driver_actor.run",
        "driver.run",
        "cohort.train",
        "actors.run",
        "dispatch.__init__",
        "dispatch._submit",
    ]
    assert (tmp_path / "worker").read_text().splitlines() == [
        "pool.handle",
        "worker.handle",
        "worker._train_clients",
        "local_update.local_update",
        "local_update._step",
    ]
