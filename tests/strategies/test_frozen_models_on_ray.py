"""Strategies with frozen models, and a strategy with the teacher's term: Ray gives the bits of one process."""

from pathlib import Path
from typing import Any

import pytest
from helpers import algorithms

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

DATA = {"train": "digits", "test": "digits", "train_limit": 150, "test_limit": 20, "public_fraction": 0.1}


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "moon"},
        pytest.param({"name": "fedntd"}, marks=pytest.mark.slow),
        pytest.param({"name": "global_teacher"}, marks=pytest.mark.slow),
        {"name": "scaffold", "distillation": {"lam": 0.5, "loss": {"name": "cosine"}}},
    ],
    ids=lambda strategy: strategy["name"],
)
def test_ray_gives_the_serial_bits(tmp_path: Path, strategy: dict[str, Any]) -> None:
    momentum = 0.0 if strategy["name"] == "scaffold" else 0.9
    sections = {"teacher": {"kind": "supervised", "epochs": 1}, "data": DATA} if "distillation" in strategy else {}
    experiment = algorithms.experiment(strategy, momentum, **sections)
    on_ray = algorithms.run_on_ray(
        algorithms.experiment(strategy, momentum, **sections, resources={"backend": "ray"}), tmp_path / "ray"
    )
    assert on_ray.bits == algorithms.run(experiment, tmp_path / "serial").bits
