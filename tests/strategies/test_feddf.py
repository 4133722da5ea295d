"""FedDF against a second implementation in float64, its limits, and the server's training."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import algorithms, federated
from helpers.algorithms import contributors, mean, new_model, set_values, sgd, values
from oracles.inputs import Client
from pydantic import ValidationError
from torch import Tensor, nn

from fedray.errors import SpecError
from fedray.server.driver import Driver
from fedray.workers.public_data import SERVER

STEPS, BATCH, LR = 7, 16, 0.02
EPSILON = 1e-3
"""Adam's eps. With a far smaller one its first steps are the signs of gradients, which rounding turns around."""
PUBLIC = {"public_fraction": 0.3}
FEDDF = {"name": "feddf", "steps": STEPS, "batch_size": BATCH, "optimizer": {"lr": LR, "eps": EPSILON}}
SCHEMES = ["avg_logits", "avg_probabilities"]


def feddf(momentum: float = 0.0, *, data: dict[str, Any] | None = None, **fields: Any) -> algorithms.Experiment:
    """Return the experiment of FedDF; `data` changes fields of that section, `fields` those of the strategy."""
    return algorithms.experiment({**FEDDF, **fields}, momentum, data=PUBLIC | (data or {}))


def public_of(run: algorithms.Run) -> Client:
    """The public images as a client with the server's id."""
    data = federated.load(run.experiment)
    pixels = torch.from_numpy(data.train.images).double() / 255
    images = (pixels - pixels.mean()) / pixels.std(correction=0)
    return Client(SERVER, images[data.public], torch.from_numpy(data.train.labels)[data.public], data.public)


def oracle(clients: list[Client], public: Client, momentum: float, scheme: str, *, norm: bool = False) -> list[Tensor]:
    """The final values (arXiv 2006.07242, algorithm 1), with the mean over clients of KL(p_k ‖ q) as the loss of
    `avg_probabilities`."""
    model = new_model(norm=norm)
    for number in range(1, algorithms.ROUNDS + 1):
        members, trained, logits = contributors(clients, number), [], []
        for client in members:
            local = copy.deepcopy(model)
            sgd(local, client, number, momentum)
            trained.append(values(local))
            logits.append(evaluate(local, public.images))
        set_values(model, mean(trained, [len(client.labels) for client in members]))
        teachers = [sum(logits) / len(logits)] if scheme == "avg_logits" else logits
        distil(model, public, number, teachers)
    return values(model)


def evaluate(model: nn.Module, images: Tensor) -> Tensor:
    """The logits in evaluation mode."""
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(images)
    model.train()
    return logits


def distil(model: nn.Module, public: Client, number: int, teachers: list[Tensor]) -> None:
    """Adam on the mean over teachers of KL(teacher ‖ model), with lr (1 + cos(π k / K)) / 2 in step k = 0, ..."""
    parameters = list(model.parameters())
    first, second = ([torch.zeros_like(w) for w in parameters] for _ in range(2))
    for k, batch in enumerate(server_batches(public, number)):
        log_q = torch.log_softmax(model(public.images[batch]), 1)
        log_p = [torch.log_softmax(logits[batch], 1) for logits in teachers]
        loss = sum((log.exp() * (log - log_q)).sum(1).mean() for log in log_p) / len(log_p)
        gradients, lr = torch.autograd.grad(loss, parameters), LR * (1 + math.cos(math.pi * k / STEPS)) / 2
        with torch.no_grad():
            for w, m, v, g in zip(parameters, first, second, gradients, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                w.sub_(lr * (m / (1 - 0.9 ** (k + 1))) / ((v / (1 - 0.999 ** (k + 1))).sqrt() + EPSILON))


def server_batches(public: Client, number: int) -> list[Tensor]:
    """The batches of a round's steps: whole passes over the public images, of which the last ends early."""
    per_epoch = len(public.epoch(0, algorithms.SEED, BATCH))
    epochs = math.ceil(STEPS / per_epoch)
    passes = range((number - 1) * epochs, number * epochs)
    return [batch for epoch in passes for batch in public.epoch(epoch, algorithms.SEED, BATCH)][:STEPS]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_equal_a_second_implementation(tmp_path: Path, scheme: str, momentum: float) -> None:
    run = algorithms.run(feddf(momentum, scheme=scheme), tmp_path)
    public = public_of(run)
    assert len(server_batches(public, 1)) == STEPS > len(public.epoch(0, algorithms.SEED, BATCH))
    run.assert_weights(oracle(run.clients, public, momentum, scheme))


def test_statistics_of_batch_normalisation_are_those_of_the_servers_training(tmp_path: Path) -> None:
    run = algorithms.run(algorithms.experiment(FEDDF, data=PUBLIC, proxy=algorithms.NORM), tmp_path)
    run.assert_weights(oracle(run.clients, public_of(run), 0.0, "avg_logits", norm=True))


def test_no_steps_are_fedavg_to_the_bit(tmp_path: Path) -> None:
    none = algorithms.run(feddf(steps=0), tmp_path / "none")
    fedavg = algorithms.run(algorithms.experiment({"name": "fedavg"}, data=PUBLIC), tmp_path / "fedavg")
    assert none.bits == fedavg.bits
    assert algorithms.run(feddf(), tmp_path / "some").distance(fedavg) > 0.01


def test_schemes_differ(tmp_path: Path) -> None:
    first, second = (algorithms.run(feddf(scheme=scheme), tmp_path / scheme) for scheme in SCHEMES)
    assert first.distance(second) > 1e-4


@pytest.mark.parametrize("stop_after", [1, 3])
def test_resumed_run_has_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    whole = algorithms.run(feddf(0.9), tmp_path / "whole")
    assert algorithms.run(feddf(0.9), tmp_path / "resumed", stop_after=stop_after).bits == whole.bits


def test_costs_count_logits_and_the_servers_seconds(tmp_path: Path) -> None:
    algorithms.run(feddf(), tmp_path / "feddf")
    algorithms.run(algorithms.experiment({"name": "fedavg"}, data=PUBLIC), tmp_path / "fedavg")
    ours, fedavg = (pd.read_csv(tmp_path / name / "rounds.csv") for name in ("feddf", "fedavg"))
    logits = 4 * 45 * 10  # float32, 30 % of 150 images, 10 classes
    assert (ours["bytes_up"] - fedavg["bytes_up"] == logits * ours["clients"]).all()
    assert (ours["bytes_down"] == fedavg["bytes_down"]).all()
    assert (ours["server_seconds"] > 0).all()
    assert (fedavg["server_seconds"] == 0).all()
    costs = json.loads((tmp_path / "feddf" / "costs.json").read_text())
    assert costs["server"]["seconds"] == pytest.approx(ours["server_seconds"].sum(), abs=0.001)


def test_spec_without_public_data_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"uses the public split, so data.public_fraction must be above 0"):
        algorithms.experiment(FEDDF)
    algorithms.experiment({**FEDDF, "steps": 0})


def test_public_split_of_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"^data.public_fraction is 0.005, which leaves 1 of 150 training images public; "
    ):
        Driver(feddf(data={"public_fraction": 0.005}), tmp_path)


@pytest.mark.parametrize(
    "fields", [{"steps": -1}, {"optimizer": {"lr": 0}}, {"batch_size": 1}, {"scheme": "avg_losses"}]
)
def test_values_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        feddf(**fields)
