"""The global model as the teacher against a second implementation in float64, its limit, resumption."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import algorithms
from oracles.inputs import Client
from torch import Tensor, nn

LAM, TEMPERATURE = 0.8, 2.0
GLOBAL_TEACHER = {"name": "global_teacher", "lam": LAM, "temperature": TEMPERATURE}


def global_teacher(clients: list[Client], momentum: float, label_weight: float) -> nn.Module:
    """The global model after the last round."""
    model = algorithms.new_model()
    for number in range(1, algorithms.ROUNDS + 1):
        members = algorithms.contributors(clients, number)
        trained = [copy.deepcopy(model) for _ in members]
        for client, proxy in zip(members, trained, strict=True):
            algorithms.sgd(proxy, client, number, momentum, partial(objective, model, label_weight))
        sizes = [len(client.labels) for client in members]
        algorithms.set_values(model, algorithms.mean([algorithms.values(m) for m in trained], sizes))
    return model


def objective(model: nn.Module, label_weight: float, proxy: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """CE, or (1 - λ) CE, + λ T² Σ p (log p - log q)."""
    p, q = (torch.softmax(m(images) / TEMPERATURE, 1) for m in (model, proxy))
    divergence = (p.detach() * (p.detach().log() - q.log())).sum(1).mean()
    return label_weight * algorithms.cross_entropy(proxy, images, labels) + LAM * TEMPERATURE**2 * divergence


@pytest.mark.parametrize(("momentum", "balance"), [(0.0, "additive"), (0.9, "additive"), (0.9, "convex")])
def test_weights_equal_a_second_implementation(tmp_path: Path, momentum: float, balance: str) -> None:
    run = algorithms.run(algorithms.experiment(GLOBAL_TEACHER | {"balance": balance}, momentum), tmp_path)
    label_weight = 1 - LAM if balance == "convex" else 1.0
    run.assert_weights(algorithms.values(global_teacher(run.clients, momentum, label_weight)))


def test_global_teacher_without_its_term_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, 0.9), tmp_path / "fedavg")
    off = algorithms.run(algorithms.experiment(GLOBAL_TEACHER | {"lam": 0}, 0.9), tmp_path / "off")
    assert off.distance(fedavg) == 0
    assert algorithms.run(algorithms.experiment(GLOBAL_TEACHER, 0.9), tmp_path / "on").distance(fedavg) > 1e-4


def test_a_stopped_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    experiment = algorithms.experiment(GLOBAL_TEACHER, 0.9)
    stopped = algorithms.run(experiment, tmp_path / "stopped", stop_after=2)
    assert stopped.bits == algorithms.run(experiment, tmp_path / "whole").bits
