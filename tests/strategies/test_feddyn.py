"""FedDyn against a second implementation in float64, its limits, and its state."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import algorithms
from helpers.algorithms import contributors, mean, new_model, parameters_of, set_values, sgd, values
from oracles.inputs import Client
from pydantic import ValidationError
from torch import Tensor

ALPHA = 0.3
FEDDYN = {"name": "feddyn", "alpha": ALPHA}


def oracle(
    clients: list[Client], momentum: float, *, norm: bool = False
) -> tuple[list[Tensor], list[Tensor], dict[int, list[Tensor]]]:
    """The final weights, h, and each client's estimate of its gradient (arXiv 2111.04263, algorithm 1)."""
    model = new_model(norm=norm)
    h = [torch.zeros_like(w) for w in model.parameters()]
    gradients: dict[int, list[Tensor]] = {}
    for number in range(1, algorithms.ROUNDS + 1):
        x, members, trained, updates = parameters_of(model), contributors(clients, number), [], []
        for client in members:
            old = gradients.get(client.number, [torch.zeros_like(w) for w in x])
            local = copy.deepcopy(model)

            def shift(parameters: list[Tensor], old: list[Tensor] = old, x: list[Tensor] = x) -> list[Tensor]:
                return [-g + ALPHA * (w - w_t) for g, w, w_t in zip(old, parameters, x, strict=True)]

            sgd(local, client, number, momentum, shift=shift)
            y = parameters_of(local)
            trained.append(values(local))
            updates.append([a - b for a, b in zip(y, x, strict=True)])
            gradients[client.number] = [g - ALPHA * (w - w_t) for g, w, w_t in zip(old, y, x, strict=True)]
        h = [a - ALPHA * sum(parts) / len(clients) for a, *parts in zip(h, *updates, strict=True)]
        set_values(model, mean(trained, [1] * len(trained)))
        with torch.no_grad():
            for w, a in zip(model.parameters(), h, strict=True):
                w.sub_(a / ALPHA)
    return values(model), h, gradients


@pytest.mark.parametrize(("momentum", "norm"), [(0.0, False), (0.9, False), (0.9, True)])
def test_weights_and_state_equal_a_second_implementation(tmp_path: Path, momentum: float, norm: bool) -> None:
    sections = {"proxy": algorithms.NORM} if norm else {}
    run = algorithms.run(algorithms.experiment(FEDDYN, momentum, **sections), tmp_path)
    weights, h, gradients = oracle(run.clients, momentum, norm=norm)
    run.assert_weights(weights)
    run.assert_close(run.state.extra["h"], h)
    run.assert_states("gradient", gradients)


def test_first_round_trains_as_fedprox_and_then_extrapolates(tmp_path: Path) -> None:
    """x₁ = mean(y) - h/α with h = -α · |S|/N · (mean(y) - x₀), the y being those of FedProx with μ = α."""
    training = {"rounds": 1}
    run = algorithms.run(algorithms.experiment(FEDDYN, 0.9, training=training), tmp_path / "feddyn")
    strategy = {"name": "fedprox", "mu": ALPHA, "weighting": "uniform"}
    fedprox = algorithms.run(algorithms.experiment(strategy, 0.9, training=training), tmp_path / "fedprox")
    share = algorithms.COHORT / algorithms.CLIENTS
    means = [torch.from_numpy(array).double() for array in fedprox.in_order(fedprox.state.weights)]
    run.assert_weights([y + share * (y - x) for x, y in zip(parameters_of(new_model()), means, strict=True)], 2e-7)


def test_h_is_the_mean_of_all_gradients(tmp_path: Path) -> None:
    """Those of clients that have not trained are zero."""
    run = algorithms.run(algorithms.experiment(FEDDYN), tmp_path)
    for name, h in run.state.extra["h"].items():
        total = sum(run.client_state(client)["gradient"][name].astype(np.float64) for client in run.state_rounds)
        np.testing.assert_allclose(h, total / algorithms.CLIENTS, rtol=0, atol=1e-7)


def test_it_differs_from_fedprox_and_fedavg(tmp_path: Path) -> None:
    run = algorithms.run(algorithms.experiment(FEDDYN), tmp_path / "feddyn")
    for strategy in ({"name": "fedavg"}, {"name": "fedprox", "mu": ALPHA}):
        other = algorithms.experiment({**strategy, "weighting": "uniform"})
        assert run.distance(algorithms.run(other, tmp_path / strategy["name"])) > 1e-3


def test_a_dropped_client_keeps_its_gradient(tmp_path: Path) -> None:
    """Client 2 trains in rounds 1 and 4, and its update of round 2 is dropped."""
    first, third = (
        algorithms.run(algorithms.experiment(FEDDYN, 0.9, training={"rounds": rounds}), tmp_path / str(rounds))
        for rounds in (1, 3)
    )
    assert third.state_rounds == {0: 3, 1: 2, 2: 1, 3: 3, 4: 1, 5: 3}
    for name, array in first.client_state(2)["gradient"].items():
        np.testing.assert_array_equal(third.client_state(2)["gradient"][name], array)


def test_a_stopped_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    experiment = algorithms.experiment(FEDDYN, 0.9)
    whole = algorithms.run(experiment, tmp_path / "whole")
    assert algorithms.run(experiment, tmp_path / "resumed", stop_after=2).bits == whole.bits


@pytest.mark.parametrize(
    ("fields", "aggregation", "expected"),
    [
        ({}, {"name": "median"}, "strategy.name is 'feddyn', but .* 'median', .* set it to mean"),
        ({}, {"name": "norm_clipped_mean"}, "'norm_clipped_mean', .* set it to mean"),
        ({"weighting": "examples"}, {"name": "mean"}, "should be 'uniform'"),
        ({"alpha": 0}, {"name": "mean"}, "greater than 0"),
    ],
)
def test_combinations_that_break_its_state_are_refused(
    fields: dict[str, Any], aggregation: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValidationError, match=expected):
        algorithms.experiment({**FEDDYN, **fields}, aggregation=aggregation)
