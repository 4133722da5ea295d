"""Strategies whose clients train in phases, against second implementations in float64: FedRep, and a public phase."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import algorithms, digest, federated
from helpers.algorithms import LR, WEIGHT_DECAY, contributors, cross_entropy, mean, new_model, set_values, values
from helpers.digest import PUBLIC_EPOCHS
from oracles.inputs import Client
from pydantic import ValidationError
from torch import Tensor, nn

HEAD_EPOCHS = 3
FEDREP = {"name": "fedrep", "head_epochs": HEAD_EPOCHS}
DIGEST = {"name": "helpers.digest:Digest"}
PUBLIC = {"public_fraction": 0.3}
EXPERIMENTS: dict[str, Callable[[float], algorithms.Experiment]] = {
    "fedrep": lambda momentum: algorithms.experiment(FEDREP, momentum),
    "digest": lambda momentum: algorithms.experiment(DIGEST, momentum, data=PUBLIC),
}


def train(
    parameters: Sequence[Tensor],
    client: Client,
    epochs: range,
    momentum: float,
    loss: Callable[[Tensor], Tensor],
) -> None:
    """SGD over some parameters in place, with v = 0 at the start; `loss` is that of the examples at some positions."""
    velocity = [torch.zeros_like(p) for p in parameters]
    for batch in (batch for epoch in epochs for batch in client.epoch(epoch, algorithms.SEED, algorithms.BATCH)):
        gradients = torch.autograd.grad(loss(batch), parameters)
        with torch.no_grad():
            for w, v, g in zip(parameters, velocity, gradients, strict=True):
                v.copy_(momentum * v + g + WEIGHT_DECAY * w)
                w.sub_(LR * v)


def fedrep(clients: list[Client], momentum: float) -> tuple[list[Tensor], dict[int, list[Tensor]]]:
    """The final body, and each client's head (arXiv 2102.07078, algorithm 1). Epochs have numbers over both phases."""
    model, heads = new_model(), dict[int, list[Tensor]]()
    for number in range(1, algorithms.ROUNDS + 1):
        members, trained = contributors(clients, number), []
        for client in members:
            local = copy.deepcopy(model)
            set_values(local[-1], heads.get(client.number, values(model[-1])))
            loss = of_examples(local, client)
            per_round = HEAD_EPOCHS + algorithms.LOCAL_EPOCHS
            first, last = (number - 1) * per_round, number * per_round
            train(list(local[-1].parameters()), client, range(first, first + HEAD_EPOCHS), momentum, loss)
            train(list(local[:-1].parameters()), client, range(first + HEAD_EPOCHS, last), momentum, loss)
            trained.append(values(local[:-1]))
            heads[client.number] = values(local[-1])
        set_values(model[:-1], mean(trained, [len(client.labels) for client in members]))
    return values(model), heads


def of_examples(model: nn.Module, client: Client) -> Callable[[Tensor], Tensor]:
    """The cross-entropy of a model as a function of the positions of a batch."""
    return lambda batch: cross_entropy(model, client.images[batch], client.labels[batch])


def digested(clients: list[Client], public: Client, momentum: float) -> list[Tensor]:
    """The final values, with the public images in epochs of their own numbers."""
    model, consensus = new_model(), None
    for number in range(1, algorithms.ROUNDS + 1):
        members, trained, outputs = contributors(clients, number), [], []
        target = torch.log_softmax(model(public.images).detach() if consensus is None else consensus, 1)
        for client in members:
            local = copy.deepcopy(model)
            own = Client(-3 - client.number, public.images, public.labels, public.positions)
            epochs = range((number - 1) * PUBLIC_EPOCHS, number * PUBLIC_EPOCHS)
            train(list(local.parameters()), own, epochs, momentum, divergence(local, public, target))
            epochs = range((number - 1) * algorithms.LOCAL_EPOCHS, number * algorithms.LOCAL_EPOCHS)
            train(list(local.parameters()), client, epochs, momentum, of_examples(local, client))
            trained.append(values(local))
            outputs.append(local(public.images).detach())
        set_values(model, mean(trained, [len(client.labels) for client in members]))
        consensus = sum(outputs) / len(outputs)
    return values(model)


def divergence(model: nn.Module, public: Client, log_p: Tensor) -> Callable[[Tensor], Tensor]:
    """KL(p ‖ model) as a function of the positions of a batch."""

    def loss(batch: Tensor) -> Tensor:
        log_q = torch.log_softmax(model(public.images[batch]), 1)
        return (log_p[batch].exp() * (log_p[batch] - log_q)).sum(1).mean()

    return loss


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fedrep_equals_a_second_implementation(tmp_path: Path, momentum: float) -> None:
    run = algorithms.run(EXPERIMENTS["fedrep"](momentum), tmp_path)
    weights, heads = fedrep(run.clients, momentum)
    run.assert_weights(weights)
    run.assert_states("local", heads)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_public_phase_equals_a_second_implementation(tmp_path: Path, momentum: float) -> None:
    run = algorithms.run(EXPERIMENTS["digest"](momentum), tmp_path)
    data = federated.load(run.experiment)
    pixels = torch.from_numpy(data.train.images).double() / 255
    images = ((pixels - pixels.mean()) / pixels.std(correction=0))[data.public]
    public = Client(-1, images, torch.from_numpy(data.train.labels)[data.public], data.public)
    run.assert_weights(digested(run.clients, public, momentum))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_resumed_run_has_the_same_bits(tmp_path: Path, name: str) -> None:
    whole = algorithms.run(EXPERIMENTS[name](0.9), tmp_path / "whole")
    assert algorithms.run(EXPERIMENTS[name](0.9), tmp_path / "resumed", stop_after=2).bits == whole.bits


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_phases_change_the_result(tmp_path: Path, name: str) -> None:
    fedavg = algorithms.experiment({"name": "fedavg"}, data=PUBLIC if name == "digest" else {})
    first, second = algorithms.run(EXPERIMENTS[name](0.0), tmp_path / name), algorithms.run(fedavg, tmp_path / "fedavg")
    assert first.distance(second) > 0.001


def test_tables_cover_all_phases(tmp_path: Path) -> None:
    run = algorithms.run(EXPERIMENTS["fedrep"](0.0), tmp_path / "fedrep")
    algorithms.run(EXPERIMENTS["digest"](0.0), tmp_path / "digest")
    ours, digested = (pd.read_csv(tmp_path / name / "clients.csv") for name in ("fedrep", "digest"))
    examples = ours["examples"].dropna().sum()
    costs: dict[str, Any] = json.loads((run.folder / "costs.json").read_text())
    assert costs["proxy"]["examples_trained"] == examples * (HEAD_EPOCHS + algorithms.LOCAL_EPOCHS)
    assert (digested[["loss_kd", "loss_cross_entropy"]].dropna() > 0).all(axis=None)


@pytest.mark.parametrize("head_epochs", [0, -1, 1.5])
def test_values_out_of_range_are_refused(head_epochs: float) -> None:
    with pytest.raises(ValidationError):
        algorithms.experiment({**FEDREP, "head_epochs": head_epochs})


def test_public_phase_without_public_data_is_refused() -> None:
    assert digest.Digest().needs_public_data
    with pytest.raises(ValidationError, match=r"data.public_fraction must be above 0"):
        algorithms.experiment(DIGEST)
