"""SCAFFOLD against a second implementation in float64, its limits, and its state."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import algorithms
from helpers.algorithms import Run, contributors, mean, new_model, parameters_of, set_values, sgd, values
from oracles.inputs import Client
from pydantic import ValidationError
from torch import Tensor

from fedray.types import Weights
from fedray.workers.requests import ClientTask
from fedray.workers.worker import Worker

SCAFFOLD = {"name": "scaffold"}


def oracle(
    clients: list[Client], momentum: float, *, norm: bool = False
) -> tuple[list[Tensor], list[Tensor], dict[int, list[Tensor]]]:
    """The final weights, c, and each c_i (arXiv 1910.06378, algorithm 1, option II; without momentum in the paper)."""
    model = new_model(norm=norm)
    c = [torch.zeros_like(w) for w in model.parameters()]
    own: dict[int, list[Tensor]] = {}
    for number in range(1, algorithms.ROUNDS + 1):
        x, members = parameters_of(model), contributors(clients, number)
        trained, changes = [], []
        for client in members:
            c_i = own.get(client.number, [torch.zeros_like(w) for w in x])
            local = copy.deepcopy(model)
            correction = [a - b for a, b in zip(c, c_i, strict=True)]
            steps = sgd(local, client, number, momentum, shift=lambda _, correction=correction: correction)
            y, total = parameters_of(local), coefficients(steps, momentum)
            new = [
                c_k - c_s + (x_k - y_k) / (algorithms.LR * total)
                for c_k, c_s, x_k, y_k in zip(c_i, c, x, y, strict=True)
            ]
            changes.append([a - b for a, b in zip(new, c_i, strict=True)])
            trained.append(values(local))
            own[client.number] = new
        set_values(model, mean(trained, [len(client.labels) for client in members]))
        c = [a + sum(parts) / len(clients) for a, *parts in zip(c, *changes, strict=True)]
    return values(model), c, own


def coefficients(steps: int, momentum: float) -> float:
    """The sum of the coefficients of all gradients in (x - y) / lr: the number of steps without momentum."""
    return sum(momentum ** (last - first) for first in range(steps) for last in range(first, steps))


@pytest.mark.parametrize(("momentum", "norm"), [(0.0, False), (0.9, False), (0.9, True)])
def test_weights_and_control_variates_equal_a_second_implementation(
    tmp_path: Path, momentum: float, norm: bool
) -> None:
    sections = {"proxy": algorithms.NORM} if norm else {}
    run = algorithms.run(algorithms.experiment(SCAFFOLD, momentum, **sections), tmp_path)
    weights, control, own = oracle(run.clients, momentum, norm=norm)
    run.assert_weights(weights)
    run.assert_close(run.state.extra["control"], control)
    run.assert_states("control", own)


def test_a_dropped_client_keeps_its_control_variate(tmp_path: Path) -> None:
    """Client 2 trains in rounds 1 and 4, and its update of round 2 is dropped."""
    first, third = (
        algorithms.run(algorithms.experiment(SCAFFOLD, 0.9, training={"rounds": rounds}), tmp_path / str(rounds))
        for rounds in (1, 3)
    )
    assert third.state_rounds == {0: 3, 1: 2, 2: 1, 3: 3, 4: 1, 5: 3}
    for client in (2, 4):
        for name, array in first.client_state(client)["control"].items():
            np.testing.assert_array_equal(third.client_state(client)["control"][name], array)


class NotFiniteWorker(Worker):
    """Client 2 sends a NaN in round 2."""

    def trained_weights(self, task: ClientTask) -> Weights:
        weights = super().trained_weights(task)
        if (task.round, task.client) == algorithms.DROPPED:
            weights["0.bias"][0] = np.nan
        return weights


def test_a_rejected_update_leaves_the_same_bits_as_a_failed_client(tmp_path: Path) -> None:
    """The client has trained, but its message and its new control variate are not used."""
    experiment = algorithms.experiment(SCAFFOLD, 0.9)
    rejected = algorithms.run(experiment, tmp_path / "rejected", NotFiniteWorker)
    assert rejected.bits == algorithms.run(experiment, tmp_path / "failed").bits


def test_a_client_that_krum_leaves_out_keeps_its_control_variate(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"aggregation": {"name": "krum", "byzantine": 0}, "training": {"rounds": 1}}
    run = algorithms.run(algorithms.experiment(SCAFFOLD, **sections), tmp_path)
    (chosen,) = run.state_rounds
    for name, change in run.client_state(chosen)["control"].items():
        c = run.state.extra["control"][name]
        np.testing.assert_allclose(c, change / algorithms.CLIENTS, rtol=0, atol=1e-8)


def test_the_first_round_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    """All control variates are zero."""
    training = {"rounds": 1}
    run = algorithms.run(algorithms.experiment(SCAFFOLD, 0.9, training=training), tmp_path / "scaffold")
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, 0.9, training=training), tmp_path / "fedavg")
    assert weights_of(run) == weights_of(fedavg)
    assert any(array.any() for array in run.state.extra["control"].values())


def test_a_single_client_is_fedavg(tmp_path: Path) -> None:
    """Its control variate is the server's, up to the rounding of the sum over clients."""
    sections: dict[str, Any] = {"partition": {"kind": "iid", "clients": 1}, "training": {"participation": 1.0}}
    run = algorithms.run(algorithms.experiment(SCAFFOLD, 0.9, **sections), tmp_path / "scaffold", Worker)
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, 0.9, **sections), tmp_path / "fedavg", Worker)
    assert run.distance(fedavg) < 1e-7


def test_control_variates_change_later_rounds(tmp_path: Path) -> None:
    run = algorithms.run(algorithms.experiment(SCAFFOLD), tmp_path / "scaffold")
    assert run.distance(algorithms.run(algorithms.experiment({"name": "fedavg"}), tmp_path / "fedavg")) > 1e-3


def test_a_stopped_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    experiment = algorithms.experiment(SCAFFOLD, 0.9)
    whole = algorithms.run(experiment, tmp_path / "whole")
    assert algorithms.run(experiment, tmp_path / "resumed", stop_after=2).bits == whole.bits


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers_than_sgd_are_refused(optimizer: str) -> None:
    with pytest.raises(ValidationError, match=f"strategy.name is 'scaffold', but .* '{optimizer}', .* set it to sgd"):
        algorithms.experiment(SCAFFOLD, training={"optimizer": {"name": optimizer}})


def weights_of(run: Run) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in run.state.weights.items()}
