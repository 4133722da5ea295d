"""A worker's models between requests, its evaluation, and its clients' failures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import federated
from helpers.workers import DescribeProcess

from fedray.config.experiment import Experiment
from fedray.models import proxies
from fedray.models.weights import get_weights, set_weights
from fedray.types import ClientFailure, ClientUpdate, Weights
from fedray.workers.client_models import initial_model
from fedray.workers.requests import ClientTask, Evaluate, Initialize, LocalValue, TrainClients, WorkerResult
from fedray.workers.worker import PreparedClient, Worker

Make = Callable[..., Experiment]


def new_worker(experiment: Experiment) -> tuple[Worker, Weights]:
    data = federated.load(experiment)
    return Worker(experiment, data), get_weights(initial_model(experiment.proxy, data.train.shape, 0, "test"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_evaluation_equals_a_plain_forward_pass(small: Make, precision: str, layout: str) -> None:
    experiment = small(training={"precision": precision, "memory_format": layout})
    worker, weights = new_worker(experiment)
    data = federated.load(experiment)
    counts = worker.handle(Evaluate((5, 45), LocalValue({"weights": weights}))).value

    model = proxies.build(experiment.proxy, data.train.shape).eval()
    set_weights(model, weights)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    images = (torch.from_numpy(data.test.images[5:45]) / 255 - mean) / std
    labels = torch.from_numpy(data.test.labels[5:45])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(images)
    assert logits.dtype == getattr(torch, precision)
    loss = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="sum").item()
    assert counts.loss == pytest.approx(loss, rel=1e-6 if precision == "float32" else 2e-3)
    np.testing.assert_array_equal(counts.labels, labels)
    assert (counts.predicted == logits.argmax(1).numpy()).mean() > (0.99 if precision == "float32" else 0.9)


STRATEGIES: dict[str, dict[str, Any]] = {
    "fedprox": {"name": "fedprox", "mu": 0.1},
    "fml": {"name": "fml"},
    "fedlpfm": {"name": "fedlpfm", "loss": {"name": "cosine"}},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_training_does_not_depend_on_earlier_clients(small: Make, strategy: str) -> None:
    experiment = small(strategy=STRATEGIES[strategy])
    features = np.random.default_rng(0).normal(size=(1, 200, 12)).astype(np.float32)
    used, weights = new_worker(experiment)
    sizes = [len(shard) for shard in federated.load(experiment).shards]

    def train(worker: Worker, client: int) -> WorkerResult[Any]:
        targets = LocalValue({"features": features[:, : sizes[client]]}) if strategy == "fedlpfm" else None
        return worker.handle(TrainClients((ClientTask(2, client, targets),), LocalValue({"weights": weights})))

    train(used, 0)
    second, alone = train(used, 1), train(new_worker(experiment)[0], 1)
    assert dict(second.value[0].metrics) == dict(alone.value[0].metrics)
    assert (second.client_state is None) == (strategy == "fedprox")
    assert bits(second.messages["weights"].arrays) == bits(alone.messages["weights"].arrays)
    for group, arrays in (second.client_state or {}).items():
        assert bits(arrays) == bits(alone.client_state[group])


def bits(weights: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in (weights or {}).items()}


class FailingWorker(Worker):
    """Client 1 fails."""

    def prepare(self, task: ClientTask, *others: Any) -> PreparedClient:
        if task.client == 1:
            raise ValueError("no")
        return super().prepare(task, *others)


@pytest.mark.parametrize(("failures", "trained"), [("drop", [0, 1, 2]), ("abort", [0, 1])])
def test_no_client_trains_after_a_failure_that_ends_the_run(small: Make, failures: str, trained: list[int]) -> None:
    experiment = small(training={"failures": failures}, teacher=None)
    worker = FailingWorker(experiment, federated.load(experiment))
    weights = LocalValue({"weights": worker.handle(Initialize()).value.weights})
    outcomes = worker.handle(TrainClients(tuple(ClientTask(1, client) for client in range(3)), weights)).value
    assert [outcome.client for outcome in outcomes] == trained
    assert [type(outcome) for outcome in outcomes[:2]] == [ClientUpdate, ClientFailure]


def test_an_unknown_request_is_a_type_error(small: Make) -> None:
    worker, _ = new_worker(small())
    with pytest.raises(TypeError, match="does not handle requests of type DescribeProcess"):
        worker.handle(DescribeProcess(0))
