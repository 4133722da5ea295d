"""Centralised training: one client with the examples of all, whatever the partition and the participation."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import algorithms, federated
from helpers.algorithms import new_model, sgd, values
from oracles.inputs import clients_of
from pydantic import ValidationError

from fedray.strategies.centralized import Centralized
from fedray.testing import check_strategy
from fedray.workers.worker import Worker

CENTRALIZED = {"name": "centralized"}
ONE: dict[str, Any] = {"partition": {"kind": "iid", "clients": 1}, "training": {"participation": 1.0}}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_equal_a_second_implementation(tmp_path: Path, momentum: float) -> None:
    run = algorithms.run(algorithms.experiment(CENTRALIZED, momentum), tmp_path)
    (everything,) = clients_of(federated.load(algorithms.experiment({"name": "fedavg"}, **ONE)))
    model = new_model()
    for number in range(1, algorithms.ROUNDS + 1):
        sgd(model, everything, number, momentum)
    run.assert_weights(values(model))
    trained = pd.read_csv(tmp_path / "clients.csv")
    assert trained[["client", "examples"]].to_numpy().tolist() == [[0, 150]] * 4


@pytest.mark.parametrize("partition", ["dirichlet", "class_split", "iid"])
def test_it_is_fedavg_of_a_single_client_bit_for_bit(tmp_path: Path, partition: str) -> None:
    sections = {"partition": {"kind": partition, "clients": 5}, "training": {"participation": 0.2}}
    run = algorithms.run(algorithms.experiment(CENTRALIZED, 0.9, **sections), tmp_path / "centralized", Worker)
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, 0.9, **ONE), tmp_path / "fedavg", Worker)
    assert run.bits == fedavg.bits


def test_metrics_by_client_are_those_of_the_partition(tmp_path: Path) -> None:
    run = algorithms.run(algorithms.experiment(CENTRALIZED), tmp_path / "centralized", Worker)
    algorithms.run(algorithms.experiment({"name": "fedavg"}), tmp_path / "fedavg", Worker)
    tables = [(tmp_path / name / "partition.csv").read_text() for name in ("centralized", "fedavg")]
    assert tables[0] == tables[1]
    accuracies = pd.read_csv(tmp_path / "centralized" / "client_accuracy.csv").query("round == 4")
    recall = pd.read_csv(tmp_path / "centralized" / "classes.csv").query("round == 4")["test_accuracy"].to_numpy()
    data = federated.load(algorithms.experiment({"name": "fedavg"}))
    expected = [recall[data.train.labels[shard]].mean() for shard in data.shards]
    np.testing.assert_allclose(accuracies["test_accuracy"], expected, rtol=1e-12)
    assert run.state_rounds == {}


def test_it_differs_from_fedavg_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    experiment = algorithms.experiment(CENTRALIZED, 0.9)
    whole = algorithms.run(experiment, tmp_path / "whole")
    assert algorithms.run(experiment, tmp_path / "resumed", stop_after=2).bits == whole.bits
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, 0.9), tmp_path / "fedavg")
    assert whole.distance(fedavg) > 1e-3


def test_it_follows_the_rules_of_strategies() -> None:
    check_strategy(Centralized(), proxy={"name": "helpers.smooth_model:build"})


def test_a_rule_for_several_clients_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"it has one client, and aggregation.name is 'krum', which needs more"):
        algorithms.experiment(CENTRALIZED, aggregation={"name": "krum"}, training={"participation": 1.0})


def test_resources_are_planned_for_one_client() -> None:
    assert algorithms.experiment(CENTRALIZED).count_clients() == 1
    assert algorithms.experiment({"name": "fedavg"}).count_clients() == algorithms.CLIENTS
