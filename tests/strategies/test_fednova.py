"""FedNova against a second implementation in float64, its limits, and its state."""

import copy
from pathlib import Path

import numpy as np
import pytest
from helpers import algorithms
from helpers.algorithms import contributors, mean, new_model, set_values, sgd, values
from oracles.inputs import Client
from pydantic import ValidationError
from torch import Tensor

FEDNOVA = {"name": "fednova"}


def oracle(clients: list[Client], momentum: float, *, norm: bool = False) -> list[Tensor]:
    """Final parameters and buffers: x ← x - τ · Σ p_i d_i, τ = Σ p_i ‖a_i‖₁, d_i = (x - y_i) / ‖a_i‖₁ (2007.07481)."""
    model = new_model(norm=norm)
    is_trained = [name in dict(model.named_parameters()) for name in model.state_dict()]
    for number in range(1, algorithms.ROUNDS + 1):
        x, members = values(model), contributors(clients, number)
        shares = [len(client.labels) / sum(len(member.labels) for member in members) for client in members]
        trained, norms = [], []
        for client in members:
            local = copy.deepcopy(model)
            steps = sgd(local, client, number, momentum)
            norms.append(float(((1 - momentum ** np.arange(steps, 0, -1)) / (1 - momentum)).sum()))
            trained.append(values(local))
        tau = sum(p * a for p, a in zip(shares, norms, strict=True))
        means = mean(trained, shares)
        moved = [
            x[i] - tau * sum(p * (x[i] - y[i]) / a for p, y, a in zip(shares, trained, norms, strict=True))
            for i in range(len(x))
        ]
        set_values(model, [moved[i] if is_trained[i] else means[i] for i in range(len(x))])
    return values(model)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_and_buffers_equal_a_second_implementation(tmp_path: Path, momentum: float, norm: bool) -> None:
    sections = {"proxy": algorithms.NORM} if norm else {}
    run = algorithms.run(algorithms.experiment(FEDNOVA, momentum, **sections), tmp_path)
    run.assert_weights(oracle(run.clients, momentum, norm=norm))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equal_numbers_of_steps_give_fedavg(tmp_path: Path, momentum: float) -> None:
    """In round 1 the update is divided by the number of steps, which costs digits of float32; later it is not."""
    training = {"local_epochs": None, "local_steps": 3}
    run = algorithms.run(algorithms.experiment(FEDNOVA, momentum, training=training), tmp_path / "fednova")
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, momentum, training=training), tmp_path / "fedavg")
    assert run.distance(fedavg) < 4e-7


def test_one_step_per_client_gives_fedavg(tmp_path: Path) -> None:
    training = {"local_epochs": None, "local_steps": 1}
    run = algorithms.run(algorithms.experiment(FEDNOVA, 0.9, training=training), tmp_path / "fednova")
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, 0.9, training=training), tmp_path / "fedavg")
    assert run.distance(fedavg) < 1e-7


def test_unequal_numbers_of_steps_differ_from_fedavg(tmp_path: Path) -> None:
    run = algorithms.run(algorithms.experiment(FEDNOVA), tmp_path / "fednova")
    assert run.distance(algorithms.run(algorithms.experiment({"name": "fedavg"}), tmp_path / "fedavg")) > 1e-3


def test_message_has_the_size_of_an_update_after_round_1(tmp_path: Path) -> None:
    """So a rule that clips updates clips those of FedNova too."""
    experiment = algorithms.experiment(FEDNOVA, aggregation={"name": "norm_clipped_mean", "max_norm": 0.05})
    clipped, plain = algorithms.run(experiment, tmp_path / "clipped"), algorithms.run(
        algorithms.experiment(FEDNOVA), tmp_path / "plain"
    )  # fmt: skip
    assert clipped.distance(plain) > 1e-3
    sizes = {client.number: len(client.labels) for client in plain.clients}
    steps = {client: 2 * (-(-size // algorithms.BATCH)) for client, size in sizes.items()}
    steps[next(client for client, size in sizes.items() if size % algorithms.BATCH == 1)] -= 2  # merged last batches
    last = (0, 1, 2)
    expected = sum(sizes[i] * steps[i] for i in last) / sum(sizes[i] for i in last)
    assert plain.state.extra["steps"]["a"][0] == pytest.approx(expected, rel=1e-12)


def test_a_stopped_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    experiment = algorithms.experiment(FEDNOVA, 0.9)
    whole = algorithms.run(experiment, tmp_path / "whole")
    assert algorithms.run(experiment, tmp_path / "resumed", stop_after=2).bits == whole.bits


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers_than_sgd_are_refused(optimizer: str) -> None:
    with pytest.raises(ValidationError, match=f"strategy.name is 'fednova', but .* '{optimizer}', .* set it to sgd"):
        algorithms.experiment(FEDNOVA, training={"optimizer": {"name": optimizer}})
