"""MOON against a second implementation in float64, its limit, resumption."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import algorithms
from oracles.inputs import Client
from torch import Tensor, nn

MU, TEMPERATURE = 2.0, 0.3
MOON = {"name": "moon", "mu": MU, "temperature": TEMPERATURE}


def moon(clients: list[Client], momentum: float) -> tuple[nn.Module, dict[int, nn.Module]]:
    """The global model, and each client's model after its last round. A dropped client keeps its former one."""
    model, previous = algorithms.new_model(), dict[int, nn.Module]()
    for number in range(1, algorithms.ROUNDS + 1):
        members = algorithms.contributors(clients, number)
        trained = {client.number: copy.deepcopy(model) for client in members}
        for client in members:
            last = previous.get(client.number, copy.deepcopy(model))
            algorithms.sgd(trained[client.number], client, number, momentum, partial(objective, model, last))
        previous |= trained
        sizes = [len(client.labels) for client in members]
        algorithms.set_values(model, algorithms.mean([algorithms.values(m) for m in trained.values()], sizes))
    return model, previous


def objective(model: nn.Module, last: nn.Module, proxy: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """CE - μ log(e^(s(z, z_glob) / τ) / (e^(s(z, z_glob) / τ) + e^(s(z, z_prev) / τ)))."""
    z = features(proxy, images)
    near, far = (torch.exp(cosine(z, features(m, images).detach()) / TEMPERATURE) for m in (model, last))
    return algorithms.cross_entropy(proxy, images, labels) - MU * torch.log(near / (near + far)).mean()


def features(model: nn.Module, images: Tensor) -> Tensor:
    """The inputs of the last layer."""
    for layer in list(model.children())[:-1]:
        images = layer(images)
    return images


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_equal_a_second_implementation(tmp_path: Path, momentum: float) -> None:
    run = algorithms.run(algorithms.experiment(MOON, momentum), tmp_path)
    model, previous = moon(run.clients, momentum)
    run.assert_weights(algorithms.values(model))
    assert previous.keys() == run.state_rounds.keys()
    for client, last in previous.items():
        run.assert_close(dict(run.client_state(client)["previous"]), algorithms.values(last))


def test_moon_without_its_term_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, 0.9), tmp_path / "fedavg")
    off = algorithms.run(algorithms.experiment(MOON | {"mu": 0}, 0.9), tmp_path / "off")
    assert off.distance(fedavg) == 0
    assert algorithms.run(algorithms.experiment(MOON, 0.9), tmp_path / "on").distance(fedavg) > 1e-4


def test_a_stopped_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    experiment = algorithms.experiment(MOON, 0.9)
    stopped = algorithms.run(experiment, tmp_path / "stopped", stop_after=2)
    assert stopped.bits == algorithms.run(experiment, tmp_path / "whole").bits
