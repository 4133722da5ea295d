"""The proxy `linear_probe`: federated softmax regression on the teacher's features, against NumPy in float64."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from helpers import algorithms, federated
from torch import nn

from fedray.config.experiment import Experiment
from fedray.seeding import torch_rng
from fedray.server.teacher_targets import root_mean_square
from fedray.teachers import loading
from fedray.workers.requests import QueryTeacher, Request, WorkerResult
from fedray.workers.worker import Worker

Floats = npt.NDArray[np.float64]
Head = tuple[Floats, Floats]
"""Weight [classes, d] and bias [classes]."""

PROBE: dict[str, Any] = {
    "proxy": {"name": "linear_probe"},
    "teacher": {"kind": "supervised", "model": {"name": "helpers.smooth_model:build"}, "epochs": 1},
    "data": {"public_fraction": 0.2},
}
"""Its teacher has 12 features, so that the learning rate of the other oracles is stable."""
STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "fedprox": {"name": "fedprox", "mu": 0.1},
    "scaffold": {"name": "scaffold"},
    "fedntd": {"name": "fedntd"},
    "local": {"name": "local"},
    "centralized": {"name": "centralized"},
    "fedlpfm without a teacher's term": {"name": "fedlpfm", "lam": 0.0},
}


class NoTeacherWorker(Worker):
    """Fails where a teacher output must be computed: all must be cached."""

    def handle(self, request: Request[Any]) -> WorkerResult[Any]:
        assert not isinstance(request, QueryTeacher), "a teacher output was computed"
        return super().handle(request)


def experiment(strategy: dict[str, Any], momentum: float = 0.0, **sections: Any) -> Experiment:
    return algorithms.experiment(strategy, momentum, **{**PROBE, **sections})


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


class Oracle:
    """FedAvg, or FedProx with `mu` > 0, of softmax regression on features, written out in NumPy."""

    def __init__(self, run: algorithms.Run) -> None:
        self.data, self.clients = federated.load(run.experiment), run.clients
        teacher = loading.load(run.experiment.teacher, self.data, algorithms.SEED, torch.device("cpu"))  # type: ignore[arg-type]
        train, test = (
            teacher.outputs(images)["features"].astype(np.float64)
            for images in (self.data.train.images, self.data.test.images)
        )
        held = np.concatenate(self.data.shards)
        self.scale = float(np.sqrt(np.square(train[held]).mean()))
        self.train, self.test = train / self.scale, test / self.scale

    def train_client(self, start: Head, number: int, client: int, momentum: float, mu: float) -> Head:
        """Run a client's local steps: g = ∇CE + mu (w - w_t) + wd w;  v ← m v + g;  w ← w - lr v."""
        own = self.clients[client]
        features, labels = self.train[own.positions], np.eye(10)[own.labels.numpy()]
        head, velocity = [start[0].copy(), start[1].copy()], [np.zeros_like(start[0]), np.zeros_like(start[1])]
        for batch in algorithms.batches(own, number):
            x, y = features[batch.numpy()], labels[batch.numpy()]
            error = (softmax(x @ head[0].T + head[1]) - y) / len(x)
            for i, gradient in enumerate((error.T @ x, error.sum(0))):
                pull = mu * (head[i] - start[i]) + algorithms.WEIGHT_DECAY * head[i]
                velocity[i] = momentum * velocity[i] + gradient + pull
            head = [w - algorithms.LR * v for w, v in zip(head, velocity, strict=True)]
        return head[0], head[1]

    def rounds(self, momentum: float, mu: float = 0.0) -> Iterator[Head]:
        """Yield the global head after each round."""
        with torch_rng(None, algorithms.SEED, "proxy"):
            layer = nn.Linear(self.train.shape[1], 10)
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        for number in range(1, algorithms.ROUNDS + 1):
            members = algorithms.contributors(self.clients, number)
            heads = [self.train_client((weight, bias), number, member.number, momentum, mu) for member in members]
            shares = np.array([len(member.labels) for member in members]) / sum(len(m.labels) for m in members)
            weight, bias = (sum(s * head[i] for s, head in zip(shares, heads, strict=True)) for i in (0, 1))
            yield weight, bias

    def evaluate(self, head: Head) -> tuple[float, float]:
        """Return accuracy and mean cross-entropy on the test set."""
        probabilities, labels = softmax(self.test @ head[0].T + head[1]), self.data.test.labels
        loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
        return float((probabilities.argmax(1) == labels).mean()), float(loss)


@pytest.mark.parametrize("mu", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_and_evaluation_equal_a_second_implementation(tmp_path: Path, momentum: float, mu: float) -> None:
    strategy = {"name": "fedprox", "mu": mu} if mu else {"name": "fedavg"}
    run = algorithms.run(experiment(strategy, momentum), tmp_path)
    oracle = Oracle(run)
    heads = list(oracle.rounds(momentum, mu))
    assert {name: a.shape for name, a in run.state.weights.items()} == {"head.weight": (10, 12), "head.bias": (10,)}
    for name, expected in zip(("head.weight", "head.bias"), heads[-1], strict=True):
        np.testing.assert_allclose(run.state.weights[name], expected, rtol=0, atol=algorithms.TOLERANCE)
    rows = pd.read_csv(tmp_path / "rounds.csv")
    expected_rows = [oracle.evaluate(head) for head in heads]
    assert rows["test_accuracy"].tolist() == pytest.approx([accuracy for accuracy, _ in expected_rows], abs=1e-9)
    assert rows["test_loss"].tolist() == pytest.approx([loss for _, loss in expected_rows], abs=1e-5)
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["feature_scale"] == pytest.approx(oracle.scale, rel=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_resume_continues_with_the_same_bits(tmp_path: Path, strategy: dict[str, Any]) -> None:
    whole = algorithms.run(experiment(strategy, 0.9), tmp_path / "whole")
    stopped = algorithms.run(experiment(strategy, 0.9), tmp_path / "stopped", stop_after=2)
    assert stopped.bits == whole.bits


def test_a_second_run_computes_no_feature(tmp_path: Path) -> None:
    first = algorithms.run(experiment({"name": "fedavg"}), tmp_path / "first")
    second = algorithms.run(experiment({"name": "fedavg"}), tmp_path / "second", NoTeacherWorker)
    passes = [pd.read_csv(run.folder / "rounds.csv")["teacher_forward_passes"].tolist() for run in (first, second)]
    assert passes == [[120 + 20, 0, 0, 0], [0, 0, 0, 0]]


def test_the_order_of_clients_and_rows_does_not_change_a_bit_of_the_scale() -> None:
    rng = np.random.default_rng(0)
    arrays = [(rng.normal(size=(1, n, 7)) * 10.0**n).astype(np.float32) for n in range(1, 6)]
    scale, together = root_mean_square(arrays), np.concatenate(arrays, axis=1)
    assert scale == root_mean_square(arrays[::-1]) == root_mean_square([together[:, ::-1]])
    assert scale == pytest.approx(np.sqrt(np.square(together, dtype=np.float64).mean()), rel=1e-6)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_gives_the_bits_of_one_process(tmp_path: Path) -> None:
    for name in ("fedavg", "scaffold"):
        spec = experiment({"name": name}, 0.9)
        alone, on_ray = algorithms.run(spec, tmp_path / name), algorithms.run_on_ray(spec, tmp_path / f"{name} on Ray")
        assert on_ray.bits == alone.bits
        tables = [pd.read_csv(run.folder / "rounds.csv") for run in (alone, on_ray)]
        for column in ("test_accuracy", "test_loss"):
            assert tables[0][column].tolist() == tables[1][column].tolist()
