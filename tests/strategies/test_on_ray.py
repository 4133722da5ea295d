"""Algorithms with messages, state or arrays of their own give the serial bits on Ray."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import algorithms

from fedray.backends.ray.pool import ActorPool

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STRATEGIES: list[dict[str, Any]] = [{"name": "scaffold"}, {"name": "fednova"}, {"name": "feddyn"}]


@pytest.fixture(scope="module")
def pool() -> Iterator[ActorPool]:
    """Two actors, which serve one experiment after another."""
    pool = ActorPool()
    yield pool
    pool.close()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy["name"])
def test_serial_and_ray_give_the_same_bits(tmp_path: Path, pool: ActorPool, strategy: dict[str, Any]) -> None:
    """One update is dropped, and clients that have state train again."""
    serial = algorithms.run(algorithms.experiment(strategy, 0.9), tmp_path / "serial")
    experiment = algorithms.experiment(strategy, 0.9, resources={"backend": "ray", "clients_per_actor": 2})
    assert algorithms.run_on_ray(experiment, tmp_path / "ray", pool).bits == serial.bits
