"""Algorithms with messages, state or arrays of their own give the serial bits on Ray."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import algorithms

from fedray.backends.ray.pool import ActorPool

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STRATEGIES: list[Any] = [
    {"name": "scaffold"},
    {"name": "fedbn"},
    {"name": "feddf", "steps": 7, "batch_size": 16},
    *(
        pytest.param({"name": name}, marks=pytest.mark.slow)
        for name in ("fednova", "feddyn", "local", "centralized", "fedrep", "helpers.digest:Digest")
    ),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[ActorPool]:
    """Two actors, which serve one experiment after another."""
    pool = ActorPool()
    yield pool
    pool.close()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy["name"])
def test_serial_and_ray_give_the_same_bits(tmp_path: Path, pool: ActorPool, strategy: dict[str, Any]) -> None:
    """One update is dropped, and clients that have state train again."""
    sections = {"data": {"public_fraction": 0.3}, **({"proxy": algorithms.NORM} if strategy["name"] == "fedbn" else {})}
    serial = algorithms.run(algorithms.experiment(strategy, 0.9, **sections), tmp_path / "serial")
    experiment = algorithms.experiment(strategy, 0.9, resources={"backend": "ray", "clients_per_actor": 2}, **sections)
    on_ray = algorithms.run_on_ray(experiment, tmp_path / "ray", pool)
    assert on_ray.bits == serial.bits
    tables = [(run.folder / "client_accuracy.csv").read_text() for run in (serial, on_ray)]
    assert tables[0] == tables[1]
