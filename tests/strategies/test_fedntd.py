"""FedNTD against a second implementation in float64, its limit, resumption."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import algorithms
from oracles.inputs import Client
from torch import Tensor, nn

BETA, TEMPERATURE = 3.0, 2.0
FEDNTD = {"name": "fedntd", "beta": BETA, "temperature": TEMPERATURE}


def fedntd(clients: list[Client], momentum: float, *, norm: bool) -> nn.Module:
    """The global model after the last round. The received model uses its running statistics."""
    model = algorithms.new_model(norm=norm)
    for number in range(1, algorithms.ROUNDS + 1):
        members = algorithms.contributors(clients, number)
        trained = [copy.deepcopy(model) for _ in members]
        for client, proxy in zip(members, trained, strict=True):
            received = copy.deepcopy(model).eval()
            algorithms.sgd(proxy, client, number, momentum, partial(objective, received))
        sizes = [len(client.labels) for client in members]
        algorithms.set_values(model, algorithms.mean([algorithms.values(m) for m in trained], sizes))
    return model


def objective(received: nn.Module, proxy: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """CE + β τ² Σ p (log p - log q) over the classes other than y, from logits without that of y."""
    is_other = torch.arange(10) != labels[:, None]
    logits = proxy(images)  # once, because a forward pass updates the running statistics
    p, q = (
        torch.softmax(z[is_other].reshape(len(images), 9) / TEMPERATURE, 1) for z in (received(images).detach(), logits)
    )
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    cross_entropy = -torch.log_softmax(logits, 1)[range(len(labels)), labels].mean()
    return cross_entropy + BETA * TEMPERATURE**2 * divergence


@pytest.mark.parametrize(("momentum", "norm"), [(0.0, False), (0.9, False), (0.9, True)])
def test_weights_equal_a_second_implementation(tmp_path: Path, momentum: float, norm: bool) -> None:
    sections = {"proxy": algorithms.NORM} if norm else {}
    run = algorithms.run(algorithms.experiment(FEDNTD, momentum, **sections), tmp_path)
    run.assert_weights(algorithms.values(fedntd(run.clients, momentum, norm=norm)))


def test_fedntd_without_its_term_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, 0.9), tmp_path / "fedavg")
    off = algorithms.run(algorithms.experiment(FEDNTD | {"beta": 0}, 0.9), tmp_path / "off")
    assert off.distance(fedavg) == 0
    assert algorithms.run(algorithms.experiment(FEDNTD, 0.9), tmp_path / "on").distance(fedavg) > 1e-4


def test_a_stopped_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    experiment = algorithms.experiment(FEDNTD, 0.9)
    stopped = algorithms.run(experiment, tmp_path / "stopped", stop_after=2)
    assert stopped.bits == algorithms.run(experiment, tmp_path / "whole").bits
