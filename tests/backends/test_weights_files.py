"""Files of a request are read when the request starts, so that few of them are in memory at a time."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import federated, workers
from ray import cloudpickle

from fedray.backends.base import CallResult, MakeBackend
from fedray.backends.ray.actors import RayBackend
from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.models.weights import GroupsFile
from fedray.types import ClientUpdate
from fedray.workers.requests import ClientTask, TrainClients

cloudpickle.register_pickle_by_value(workers)

Make = Callable[..., Experiment]


def test_serial_reads_a_file_when_its_request_starts(small: Make, tmp_path: Path) -> None:
    check(small, tmp_path, partial(SerialBackend, worker=workers.SummingWorker))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_reads_a_file_when_its_request_starts(small: Make, tmp_path: Path) -> None:
    check(small, tmp_path, partial(RayBackend, worker=workers.SummingWorker))


def check(small: Make, tmp_path: Path, make_backend: MakeBackend) -> None:
    """While the caller handles a result, a single worker has at most the next request: later files do not exist."""
    experiment = small(resources={"clients_per_actor": 4})
    files = [GroupsFile(tmp_path / f"{number}.safetensors") for number in range(6)]

    def write(number: int) -> None:
        files[number].write({"own": {"w": np.full(2**16, number, np.float32)}})

    backend = make_backend(experiment, federated.load(experiment))
    try:
        assert not list(backend.ready())
        write(0)
        write(1)
        sums = []
        weights = backend.share({})
        for result in backend.run([TrainClients((ClientTask(1, 0, state=file),), weights) for file in files]):
            assert isinstance(result, CallResult), result
            (update,) = result.value
            assert isinstance(update, ClientUpdate), update
            sums.append(update.metrics["sum"])
            if (later := result.index + 2) < len(files):
                write(later)
    finally:
        backend.close()
    assert sums == [number * 2.0**16 for number in range(6)]
