"""FedAvg with partial participation and a dropped update, and the runs that the tests of other algorithms share."""

import copy
from pathlib import Path

import pandas as pd
import pytest
from helpers import algorithms
from helpers.algorithms import contributors, mean, new_model, set_values, sgd, values
from oracles.inputs import Client
from torch import Tensor


def oracle(clients: list[Client], momentum: float, *, norm: bool = False) -> list[Tensor]:
    """Final parameters and buffers (arXiv 1602.05629)."""
    model = new_model(norm=norm)
    for number in range(1, algorithms.ROUNDS + 1):
        members, trained = contributors(clients, number), []
        for client in members:
            local = copy.deepcopy(model)
            sgd(local, client, number, momentum)
            trained.append(values(local))
        set_values(model, mean(trained, [len(client.labels) for client in members]))
    return values(model)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_equal_a_second_implementation(tmp_path: Path, momentum: float, norm: bool) -> None:
    sections = {"proxy": algorithms.NORM} if norm else {}
    run = algorithms.run(algorithms.experiment({"name": "fedavg"}, momentum, **sections), tmp_path)
    run.assert_weights(oracle(run.clients, momentum, norm=norm))


def test_clients_are_unequal_and_one_that_has_trained_is_dropped(tmp_path: Path) -> None:
    run = algorithms.run(algorithms.experiment({"name": "fedavg"}), tmp_path)
    assert len({len(client.labels) for client in run.clients}) == algorithms.CLIENTS
    rows = pd.read_csv(tmp_path / "clients.csv").dropna(subset="train_accuracy")
    trained = rows.groupby("round")["client"].apply(list).tolist()
    assert trained == [[c.number for c in contributors(run.clients, number)] for number in (1, 2, 3, 4)]
    assert trained == [[0, 2, 4], [1, 3], [0, 3, 5], [0, 1, 2]]
