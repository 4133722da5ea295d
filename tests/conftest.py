"""Shared fixtures: a small experiment on real digits, and one Ray for all tests that need it."""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fedray.config.experiment import Experiment

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

SMALL: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 60, "public_fraction": 0.2},
    "partition": {"kind": "dirichlet", "alpha": 0.5, "clients": 4, "min_examples": 5},
    "proxy": {"name": "cnn", "norm": "batch"},
    "teacher": {"kind": "supervised", "epochs": 2},
    "training": {"rounds": 3, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "evaluation": {"batch_size": 25},
    "resources": {"backend": "serial"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Send all tests that start Ray to the same pytest-xdist worker: they share one Ray, or need all cores.

    Tests on three nodes come first, before the shared Ray starts, which then need not be started twice.
    """
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
    items.sort(key=lambda item: "three_nodes" not in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty teacher cache, apart from the user's."""
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def small() -> Callable[..., Experiment]:
    """Build small experiments: `small(strategy={"name": "fml"}, training={"rounds": 5})` changes two sections."""

    def make(**sections: Any) -> Experiment:
        merged = {
            name: {**SMALL.get(name, {}), **value} if isinstance(value, dict) and name != "partition" else value
            for name, value in {**SMALL, **sections}.items()
        }
        return Experiment.model_validate(merged)

    return make


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with three CPUs and one logical GPU, shared by all tests that need one."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    ray.init(address="local", num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def three_nodes() -> Iterator["Cluster"]:
    """A cluster of three nodes with a CPU each, before the shared Ray starts."""
    import ray
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(wait=False, num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
