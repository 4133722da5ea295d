"""`training.optimizer.state: kept`: a client's moments continue from its last round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.results import checkpoint
from fedray.server.driver import Driver
from fedray.types import Weights

Make = Callable[..., Experiment]
OPTIMIZERS = [{"name": "sgd", "lr": 0.05}, {"name": "adam"}, {"name": "adamw", "lr": 0.01}]
DATA = {"train_limit": 80, "test_limit": 20, "public_fraction": 0.0}


def make(small: Make, clients: int, rounds: int, epochs: int, optimizer: dict[str, Any], **sections: Any) -> Experiment:
    training = {
        "rounds": rounds,
        "local_epochs": epochs,
        "batch_size": 16,
        "optimizer": optimizer,
        "participation": 1.0,
    }
    partition = {"kind": "iid", "clients": clients}
    return small(data=DATA, partition=partition, training=training, teacher=None, **sections)


def run(experiment: Experiment, folder: Path, rounds: int = 99) -> Weights:
    for result in Driver(experiment, folder, SerialBackend).run():
        if result.round == rounds:
            return {}
    return load_file(folder / "model.safetensors")


def equal(first: Weights, second: Weights) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["name"])
def test_single_client_trains_as_in_one_long_round(small: Make, tmp_path: Path, optimizer: dict[str, Any]) -> None:
    """Three rounds of one epoch with kept moments have the bits of one round of three epochs."""
    strategy = {"name": "fedavg"}
    long = run(make(small, 1, 1, 3, optimizer, strategy=strategy), tmp_path / "long")
    kept = run(make(small, 1, 3, 1, {**optimizer, "state": "kept"}, strategy=strategy), tmp_path / "kept")
    reset = run(make(small, 1, 3, 1, optimizer, strategy=strategy), tmp_path / "reset")
    assert equal(kept, long)
    assert not equal(reset, long)


def test_kept_moments_are_client_state_of_the_checkpoint(small: Make, tmp_path: Path) -> None:
    experiment = make(small, 2, 3, 1, {"name": "adam", "state": "kept"}, strategy={"name": "fml"})
    whole = run(experiment, tmp_path / "whole")
    run(experiment, tmp_path / "resumed", rounds=1)
    state = checkpoint.client_file(tmp_path / "resumed" / "checkpoint", 1, 1).read()
    assert state.keys() == {"private", "optimizer"}
    assert equal(run(experiment, tmp_path / "resumed"), whole)


@pytest.mark.parametrize("strategy", ["scaffold", "fednova"])
def test_strategies_that_need_momentum_of_zero_refuse(strategy: str) -> None:
    fields = {"strategy": {"name": strategy}, "training": {"optimizer": {"name": "sgd", "state": "kept"}}}
    with pytest.raises(ValueError, match=r"training.optimizer.state is 'kept', .*; set it to reset"):
        Experiment.model_validate(fields)
