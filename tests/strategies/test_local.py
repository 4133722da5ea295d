"""Local only: each client equals a run of its own; nothing is sent."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import algorithms, federated
from helpers.algorithms import contributors, new_model, sgd, values
from oracles.inputs import Client
from pydantic import ValidationError
from torch import Tensor

from fedray.strategies.local import Local
from fedray.testing import check_strategy
from fedray.workers.requests import ClientTask, Initialize, LocalValue, TrainClients
from fedray.workers.worker import Worker

LOCAL = {"name": "local"}


def oracle(clients: list[Client], momentum: float) -> dict[int, list[Tensor]]:
    """Final values of each client's model: it trains on, from the initial model, in the rounds of its own updates."""
    initial = new_model()
    models = {client.number: copy.deepcopy(initial) for client in clients}
    for number in range(1, algorithms.ROUNDS + 1):
        for client in contributors(clients, number):
            sgd(models[client.number], client, number, momentum)
    return {client: values(model) for client, model in models.items()}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_each_model_equals_a_second_implementation(tmp_path: Path, momentum: float) -> None:
    run = algorithms.run(algorithms.experiment(LOCAL, momentum), tmp_path)
    expected = oracle(run.clients, momentum)
    run.assert_weights(values(new_model()))  # no update has reached the server
    run.assert_states("local", expected)


def test_nothing_is_sent(tmp_path: Path) -> None:
    experiment = algorithms.experiment(LOCAL)
    worker = Worker(experiment, federated.load(experiment))
    weights = LocalValue({"weights": worker.handle(Initialize()).value.weights})
    result = worker.handle(TrainClients((ClientTask(1, 2),), weights))
    assert result.messages["weights"].arrays == {}
    assert result.value[0].message_bytes == 0
    algorithms.run(experiment, tmp_path)
    rounds = pd.read_csv(tmp_path / "rounds.csv")
    assert rounds[["bytes_down", "bytes_up", "update_norm"]].eq(0).all(axis=None)
    assert set(rounds["evaluated_model"]) == {"client"}


def test_a_stopped_run_resumes_with_the_same_bits_and_tables(tmp_path: Path) -> None:
    experiment = algorithms.experiment(LOCAL, 0.9)
    whole = algorithms.run(experiment, tmp_path / "whole")
    resumed = algorithms.run(experiment, tmp_path / "resumed", stop_after=2)
    assert resumed.bits == whole.bits
    tables = [(run.folder / "client_accuracy.csv").read_text() for run in (whole, resumed)]
    assert tables[0] == tables[1]


def test_a_single_client_is_centralised_training_bit_for_bit(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"partition": {"kind": "iid", "clients": 1}, "training": {"participation": 1.0}}
    local = algorithms.run(algorithms.experiment(LOCAL, 0.9, **sections), tmp_path / "local", Worker)
    pooled = algorithms.run(
        algorithms.experiment({"name": "centralized"}, 0.9, **sections), tmp_path / "pooled", Worker
    )
    for name, array in pooled.state.weights.items():
        np.testing.assert_array_equal(local.client_state(0)["local"][name], array)
    metrics = ["test_accuracy", "test_loss", "worst_class_accuracy", "client_accuracy", "client_accuracy_worst_tenth"]
    first, second = (pd.read_csv(run.folder / "rounds.csv")[metrics] for run in (local, pooled))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    classes, clients = (
        [(run.folder / name).read_text() for run in (local, pooled)] for name in ("classes.csv", "client_accuracy.csv")
    )
    assert classes[0] == classes[1]
    assert clients[0] == clients[1]


def test_it_follows_the_rules_of_strategies() -> None:
    check_strategy(Local(), proxy={"name": "helpers.smooth_model:build"})


@pytest.mark.parametrize("sections", [{"server": {"name": "adam"}}, {"aggregation": {"name": "median"}}])
def test_a_rule_of_the_server_is_refused(sections: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match=r"strategy.name is 'local', but its clients send nothing, and .* set it to"
    ):
        algorithms.experiment(LOCAL, **sections)
