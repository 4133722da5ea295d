"""Runs with another aggregation rule or server optimizer than FedAvg's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.workers import FailingWorker
from safetensors.numpy import load_file

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.config.loader import load
from fedray.errors import SpecError
from fedray.results import checkpoint
from fedray.server.driver import Driver
from fedray.types import Weights
from fedray.workers.worker import Worker

Make = Callable[..., Experiment]
SMALL: dict[str, Any] = {
    "data": {"train_limit": 120, "test_limit": 40, "public_fraction": 0.0},
    "partition": {"kind": "dirichlet", "alpha": 1.0, "clients": 6, "min_examples": 4},
    "teacher": None,
}


def run(experiment: Experiment, folder: Path, worker: type[Worker] = Worker, rounds: int = 99) -> Weights:
    """Run at most this number of rounds; return the final weights, if the run has finished."""
    driver = Driver(experiment, folder, partial(SerialBackend, worker=worker))
    for result in driver.run():
        if result.round == rounds:
            break
    file = folder / "model.safetensors"
    return load_file(file) if file.exists() else {}


def equal(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "sections",
    [
        {"aggregation": {"name": "median"}},
        {"aggregation": {"name": "multi_krum", "keep": 2}, "strategy": {"name": "scaffold"}},
        {"server": {"name": "adam"}},
        {"server": {"name": "avgm"}, "aggregation": {"name": "norm_clipped_mean"}, "strategy": {"name": "scaffold"}},
    ],
    ids=["median", "multi-Krum and SCAFFOLD", "Adam", "AvgM, clipping and SCAFFOLD"],
)
def test_resumed_run_has_the_bits_of_an_undisturbed_one(small: Make, tmp_path: Path, sections: dict[str, Any]) -> None:
    experiment = small(**SMALL, **sections)
    whole = run(experiment, tmp_path / "whole")
    run(experiment, tmp_path / "resumed", rounds=1)
    assert equal(run(experiment, tmp_path / "resumed"), whole)
    plain = small(**SMALL, strategy=sections.get("strategy", {"name": "fedavg"}))
    assert not equal(run(plain, tmp_path / "plain"), whole)


def test_client_that_krum_leaves_out_keeps_its_old_state(small: Make, tmp_path: Path) -> None:
    experiment = small(**SMALL, strategy={"name": "scaffold"}, aggregation={"name": "krum"})
    run(experiment, tmp_path, rounds=1)
    _, states = checkpoint.load(tmp_path / "checkpoint") or (None, {})
    assert len(states) == 1


def test_dropped_update_does_not_count_for_the_median(small: Make, tmp_path: Path) -> None:
    drops = {"failures": "drop", "rounds": 2}
    experiment = small(**SMALL, aggregation={"name": "median"}, training=drops)
    with_drop = run(experiment, tmp_path / "dropped", FailingWorker)
    assert not equal(with_drop, run(experiment, tmp_path / "whole"))


def test_krum_with_too_few_clients_is_refused(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("partition: {kind: iid, clients: 4}\naggregation: {name: krum}")
    with pytest.raises(SpecError, match=r"aggregation is .*needs at least 5 clients in a round, not 4"):
        load(spec)
