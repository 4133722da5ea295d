"""The teacher's term in the objective of other strategies than Fed-LPFM."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import algorithms, federated
from helpers.algorithms import contributors, mean, new_model, set_values, sgd, values
from oracles.inputs import Client, clients_of
from torch import Tensor, nn

from fedray.config.experiment import Experiment
from fedray.strategies import STRATEGIES

LAM, TEMPERATURE, MU = 0.3, 2.0, 0.5
TERM = {"lam": LAM, "temperature": TEMPERATURE}
FEATURES = 6
ROWS = 1797
"""Number of images in `digits`."""


@pytest.fixture(scope="module")
def logits_map() -> Tensor:
    """[64, 10]: the teacher's logits are this linear function of a normalised image."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(64, 10)) / 4)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, logits_map: Tensor) -> dict[str, Any]:
    """The section of a table of logits and features for the training images."""
    data = federated.load(algorithms.experiment({"name": "fedavg"}))
    logits = np.random.default_rng(1).normal(size=(ROWS, 10))
    for client in clients_of(data):
        logits[data.train.rows[client.positions]] = (client.images.flatten(1) @ logits_map).numpy()
    features = np.random.default_rng(2).normal(size=(ROWS, FEATURES))
    columns = {"logits": list(logits.astype(np.float32)), "features": list(features.astype(np.float32))}
    file = tmp_path_factory.mktemp("teacher") / "teacher.parquet"
    pd.DataFrame({"index": np.arange(ROWS), **columns}).to_parquet(file)
    return {"kind": "precomputed", "file": str(file)}


def distilled(teacher: dict[str, Any], momentum: float = 0.9, **strategy: Any) -> Experiment:
    return algorithms.experiment(strategy, momentum, teacher=teacher)


@pytest.mark.parametrize(
    "term",
    [
        TERM,
        {"lam": 3.0, "balance": "additive", "loss": {"name": "dkd"}},
        {"lam": 0.4, "loss": {"name": "cosine"}},
        {"lam": 1.0, "loss": {"name": "mse"}},
    ],
    ids=lambda term: term.get("loss", {"name": "kd"})["name"],
)
def test_fedavg_with_the_term_is_fedlpfm_bit_for_bit(
    tmp_path: Path, teacher: dict[str, Any], term: dict[str, Any]
) -> None:
    added = algorithms.run(distilled(teacher, name="fedavg", distillation=term), tmp_path / "added")
    own = algorithms.run(distilled(teacher, name="fedlpfm", **term), tmp_path / "own")
    assert added.bits == own.bits


def test_function_matching_has_the_same_needs_in_both_forms() -> None:
    term = {"lam": 1, "loss": {"name": "function_matching", "mixup": 0.3}}
    teacher = {"kind": "zero_shot", "view": "proxy", "mode": "online"}
    for strategy in (distilled(teacher, name=name, **fields).strategy
                     for name, fields in (("fedlpfm", term), ("fedprox", {"distillation": term}))):  # fmt: skip
        assert (strategy.mixup, strategy.proxy_view) == (0.3, True)
        assert strategy.required_outputs == {"logits"}


def fedprox(clients: list[Client], logits_map: Tensor) -> list[Tensor]:
    """FedProx with the convex balance: (1 - λ) CE + λ T² KL(teacher ‖ proxy) + μ/2 ‖w - w_t‖²."""
    model = new_model()
    for number in range(1, algorithms.ROUNDS + 1):
        members, trained = contributors(clients, number), []
        for client in members:
            local = copy.deepcopy(model)
            start = algorithms.parameters_of(model)
            shift = partial(pull, start)
            sgd(local, client, number, 0.9, partial(objective, logits_map), shift)
            trained.append(values(local))
        set_values(model, mean(trained, [len(client.labels) for client in members]))
    return values(model)


def pull(start: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
    """μ (w - w_t)."""
    return [MU * (w - w_t) for w, w_t in zip(parameters, start, strict=True)]


def objective(logits_map: Tensor, proxy: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(1 - λ) CE + λ T² Σ p (log p - log q)."""
    p = torch.softmax(images.flatten(1) @ logits_map / TEMPERATURE, 1)
    q = torch.softmax(proxy(images) / TEMPERATURE, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    return (1 - LAM) * algorithms.cross_entropy(proxy, images, labels) + LAM * TEMPERATURE**2 * divergence


def test_fedprox_with_the_term_equals_a_second_implementation(
    tmp_path: Path, teacher: dict[str, Any], logits_map: Tensor
) -> None:
    run = algorithms.run(distilled(teacher, name="fedprox", mu=MU, distillation=TERM), tmp_path)
    run.assert_weights(fedprox(run.clients, logits_map))


SCAFFOLD = {"name": "scaffold", "distillation": TERM}


def test_scaffold_with_the_term_resumes_with_the_same_bits(tmp_path: Path, teacher: dict[str, Any]) -> None:
    experiment = distilled(teacher, momentum=0.0, **SCAFFOLD)
    whole = algorithms.run(experiment, tmp_path / "whole")
    assert algorithms.run(experiment, tmp_path / "stopped", stop_after=2).bits == whole.bits
    assert whole.distance(algorithms.run(distilled(teacher, 0.0, name="scaffold"), tmp_path / "without")) > 1e-4


def test_scaffold_keeps_its_state_beside_the_projection(tmp_path: Path, teacher: dict[str, Any]) -> None:
    term = {"lam": LAM, "loss": {"name": "cosine"}}
    run = algorithms.run(distilled(teacher, momentum=0.0, name="scaffold", distillation=term), tmp_path)
    assert {"control", "projection"} == set(run.client_state(0))


def test_a_weight_of_zero_is_the_strategy_without_the_term_bit_for_bit(tmp_path: Path) -> None:
    off = algorithms.run(algorithms.experiment({**SCAFFOLD, "distillation": {"lam": 0.0}}), tmp_path / "off")
    assert off.bits == algorithms.run(algorithms.experiment({"name": "scaffold"}), tmp_path / "without").bits


COMPOSABLE = [name for name, strategy in STRATEGIES.items() if not strategy.refuses_distillation]


@pytest.mark.parametrize("name", COMPOSABLE)
def test_every_other_strategy_takes_the_term(tmp_path: Path, teacher: dict[str, Any], name: str) -> None:
    experiment = algorithms.experiment(
        {"name": name, "distillation": TERM},
        teacher=teacher,
        training={"rounds": 1, "local_epochs": 1},
        data={"public_fraction": 0.2},
        proxy=algorithms.NORM if name == "fedbn" else algorithms.SPEC["proxy"],
    )
    algorithms.run(experiment, tmp_path)
    losses = pd.read_csv(tmp_path / "clients.csv")
    assert {"loss_cross_entropy", "loss_kd"} <= set(losses.columns)
    assert losses["loss_kd"].gt(0).all()
