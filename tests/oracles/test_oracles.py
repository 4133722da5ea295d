"""Whole runs of fedray against second implementations: final weights agree to 1e-5.

Two rounds with partial participation, clients of unequal size, momentum, weight decay and a decaying learning rate.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import federated
from oracles import fedavg, fedlpfm, fml
from oracles.inputs import SPEC, Client, clients_of, cohort
from safetensors.numpy import load_file
from torch import Tensor

import fedray
from fedray.models.proxies import build


def run_fedray(folder: Path, **sections: Any) -> tuple[list[np.ndarray], list[Client]]:
    """Final weights of a run, in the order of the model's layers, and the clients as the oracles need them."""
    experiment = fedray.Experiment.model_validate({**SPEC, **sections})
    for _ in fedray.rounds(experiment, folder):
        pass
    data = federated.load(experiment)
    (file,) = folder.glob("**/model.safetensors")
    arrays = load_file(file)
    return [arrays[name] for name in build(experiment.proxy, data.train.shape).state_dict()], clients_of(data)


def assert_same(weights: list[np.ndarray], expected: list[Tensor]) -> None:
    for array, tensor in zip(weights, expected, strict=True):
        assert array.shape == tensor.shape
        np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=0, atol=1e-5)


def test_clients_differ_in_size_and_cohorts_in_members(tmp_path: Path) -> None:
    _, clients = run_fedray(tmp_path, strategy={"name": "fedavg"}, training={**SPEC["training"], "rounds": 1})
    assert len({len(client.labels) for client in clients}) == len(clients)
    first, second = ({client.number for client in cohort(clients, number)} for number in (1, 2))
    assert first & second
    assert first != second


@pytest.mark.parametrize("norm", [None, "batch"])
def test_fedavg(tmp_path: Path, norm: str | None) -> None:
    weights, clients = run_fedray(tmp_path, strategy={"name": "fedavg"}, proxy={"name": "cnn", "norm": norm})
    assert_same(weights, fedavg.run(clients, norm=norm is not None))


def test_fedprox(tmp_path: Path) -> None:
    weights, clients = run_fedray(tmp_path, strategy={"name": "fedprox", "mu": 0.5})
    assert_same(weights, fedavg.run(clients, mu=0.5))


def test_fml(tmp_path: Path) -> None:
    weights, clients = run_fedray(tmp_path, strategy={"name": "fml", "alpha": fml.ALPHA, "beta": fml.BETA})
    assert_same(weights, fml.run(clients))


def test_fedlpfm(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(1797, 10)).astype(np.float32) * 3  # one row per image of digits
    file = tmp_path / "teacher.parquet"
    pd.DataFrame({"index": np.arange(1797), "logits": list(logits)}).to_parquet(file)
    strategy = {"name": "fedlpfm", "lam": fedlpfm.LAM, "temperature": fedlpfm.TEMPERATURE}
    teacher = {"kind": "precomputed", "file": str(file)}
    weights, clients = run_fedray(tmp_path / "run", strategy=strategy, teacher=teacher)
    rows = federated.load(fedray.Experiment.model_validate(SPEC)).train.rows
    assert_same(weights, fedlpfm.run(clients, torch.from_numpy(logits[rows]).double()))
