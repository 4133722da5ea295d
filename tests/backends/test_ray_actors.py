"""Runs on real Ray actors give the serial bits: with any packing and order of arrival, and after a killed process."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
from helpers import federated, workers
from ray import cloudpickle
from safetensors.numpy import load_file

from fedray.backends.base import MakeBackend
from fedray.backends.ray.actors import RayBackend
from fedray.backends.ray.pool import ActorPool
from fedray.config.experiment import Experiment
from fedray.errors import RunError
from fedray.server.driver import Driver
from fedray.workers.worker import Worker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
cloudpickle.register_pickle_by_value(workers)  # Ray's processes cannot import from tests/

Make = Callable[..., Experiment]
Bits = dict[str, bytes]

STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "fedprox": {"name": "fedprox", "mu": 0.1},
    "fml": {"name": "fml"},
    "fedlpfm": {"name": "fedlpfm", "lam": 0.5, "temperature": 2.0},
}
PACKINGS: dict[str, tuple[int | str, type[Worker]]] = {
    "one actor": (4, Worker),
    "three actors, random delays": ("auto", workers.SlowWorker),
    "an actor for each client, random delays": (1, workers.SlowWorker),
}


def finish(experiment: Experiment, folder: Path, make_backend: MakeBackend | None = None) -> Bits:
    """Run to the end; the final weights, and for FML every private model."""
    for _ in Driver(experiment, folder, make_backend).run():
        pass
    files = [folder / "model.safetensors", *sorted((folder / "checkpoint" / "clients").glob("*"))]
    return {f"{file.name}/{k}": v.tobytes() for file in files for k, v in load_file(file).items()}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Experiment], Bits]:
    """The serial backend's weights, computed once for each experiment."""
    return cache(lambda experiment: finish(experiment, tmp_path_factory.mktemp("serial")))


@pytest.fixture(scope="module")
def pool() -> Iterator[ActorPool]:
    """Actors that stay warm from one test to the next, as they do from one experiment to the next."""
    pool = ActorPool()
    yield pool
    pool.close()


def is_quick(packing: str, strategy: str) -> bool:
    """FML with three actors, Fed-LPFM with one for each client; others send a part of the messages of FML."""
    return (strategy == "fml" and packing.startswith("three")) or (
        strategy == "fedlpfm" and packing.startswith("an actor")
    )


CASES = [
    pytest.param(packing, strategy, marks=[] if is_quick(packing, strategy) else pytest.mark.slow)
    for packing in PACKINGS
    for strategy in STRATEGIES
]


@pytest.mark.parametrize(("packing", "strategy"), CASES)
def test_packing_and_arrival_order_change_nothing(
    small: Make, serial: Callable[[Experiment], Bits], pool: ActorPool, tmp_path: Path, strategy: str, packing: str
) -> None:
    clients_per_actor, worker = PACKINGS[packing]
    resources = {"backend": "ray", "clients_per_actor": clients_per_actor}
    on_ray = small(strategy=STRATEGIES[strategy], resources=resources)
    bits = finish(on_ray, tmp_path, partial(RayBackend, pool=pool, worker=worker))
    assert bits == serial(small(strategy=STRATEGIES[strategy]))


@pytest.mark.slow
def test_bits_do_not_depend_on_the_backend_in_bfloat16_either(
    small: Make, serial: Callable[[Experiment], Bits], pool: ActorPool, tmp_path: Path
) -> None:
    training = {"precision": "bfloat16", "memory_format": "contiguous"}
    on_ray = small(training=training, resources={"backend": "ray"})
    bits = finish(on_ray, tmp_path, partial(RayBackend, pool=pool))
    assert bits == serial(small(training=training))
    assert bits != serial(small())


@pytest.mark.slow
def test_adamw_with_local_steps_has_the_serial_bits(
    small: Make, serial: Callable[[Experiment], Bits], pool: ActorPool, tmp_path: Path
) -> None:
    """Moments of one client do not reach the next client of the same actor."""
    training = {
        "local_steps": 7, "optimizer": {"name": "adamw"}, "clip_norm": 1.0, "schedule": {"name": "cosine", "warm_up": 1}
    }  # fmt: skip
    on_ray = small(training=training, resources={"backend": "ray", "clients_per_actor": 4})
    assert finish(on_ray, tmp_path, partial(RayBackend, pool=pool)) == serial(small(training=training))


def test_interrupted_and_resumed_private_models_come_back(
    small: Make, serial: Callable[[Experiment], Bits], pool: ActorPool, tmp_path: Path
) -> None:
    experiment = small(strategy={"name": "fml"}, resources={"backend": "ray", "clients_per_actor": 1})
    rounds = Driver(experiment, tmp_path, partial(RayBackend, pool=pool)).run()
    next(rounds)
    rounds.close()
    assert finish(experiment, tmp_path, partial(RayBackend, pool=pool)) == serial(small(strategy={"name": "fml"}))


def test_a_killed_worker_changes_no_bit(
    small: Make, serial: Callable[[Experiment], Bits], pool: ActorPool, tmp_path: Path
) -> None:
    mark = tmp_path / "died"
    dying = type("Dying", (workers.DyingWorker,), {"mark": mark})
    make_backend = partial(RayBackend, pool=pool, worker=dying)
    bits = finish(small(strategy={"name": "fml"}, resources={"backend": "ray"}), tmp_path, make_backend)
    assert mark.exists()
    assert bits == serial(small(strategy={"name": "fml"}))


def test_an_error_of_a_client_has_its_name_and_traceback(small: Make, pool: ActorPool, tmp_path: Path) -> None:
    make_backend = partial(RayBackend, pool=pool, worker=workers.FailingWorker)
    with pytest.raises(RunError, match=r"client 2 failed in round 2 on node .*ZeroDivisionError") as raised:
        finish(small(resources={"backend": "ray"}), tmp_path, make_backend)
    assert "in prepare" in str(raised.value)
    assert pd.read_csv(tmp_path / "rounds.csv")["round"].tolist() == [1]


def test_a_worker_that_cannot_start_ends_the_run(small: Make, pool: ActorPool, tmp_path: Path) -> None:
    make_backend = partial(RayBackend, pool=pool, worker=workers.BrokenWorker)
    with pytest.raises(RunError, match=r"a worker could not start: ModuleNotFoundError: No module") as raised:
        finish(small(resources={"backend": "ray"}), tmp_path, make_backend)
    assert "in start_worker" in str(raised.value)


def test_each_client_has_an_actor_with_its_share_of_the_gpu(small: Make, pool: ActorPool) -> None:
    experiment = small(resources={"backend": "ray", "gpus_per_client": 0.25, "cpus_per_client": 0.5})
    backend = RayBackend(experiment, federated.load(experiment), pool, worker=workers.DescribingWorker)
    while not all(slot.node for slot in pool.slots):
        list(backend.ready())
    requests = [workers.DescribeProcess(client) for client in (3, 0, 2, 1)]
    first, second = backend.collect(requests), backend.collect(requests)
    reserved = ray.cluster_resources()["GPU"] - ray.available_resources().get("GPU", 0)
    assert first == second
    assert len({info.process for info in first}) == 4
    assert {(info.visible_gpus, info.threads) for info in first} == {("0", 1)}
    assert reserved == 1.0


def test_data_is_read_from_shared_memory_without_a_copy(small: Make, pool: ActorPool) -> None:
    experiment = small(resources={"backend": "ray", "clients_per_actor": 4})
    backend = RayBackend(experiment, federated.load(experiment), pool, worker=workers.DescribingWorker)
    (info,) = backend.collect([workers.DescribeProcess(0)])
    assert (info.owns_images, info.may_write_images) == (False, False)
