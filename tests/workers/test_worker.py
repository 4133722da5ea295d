"""What a worker does with its models between calls, and how it evaluates."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import federated

from fedray.config.experiment import Experiment
from fedray.models import proxies
from fedray.models.weights import get_weights, set_weights
from fedray.types import ClientFailure, ClientTask, Weights, WorkerResult
from fedray.workers.worker import Worker, initial_model

Make = Callable[..., Experiment]


def begin(experiment: Experiment) -> tuple[Worker, Weights]:
    data = federated.load(experiment)
    return Worker(experiment, data), get_weights(initial_model(experiment.proxy, data, 0, "test"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_test_set_is_evaluated_as_the_spec_says(small: Make, precision: str, layout: str) -> None:
    experiment = small(training={"precision": precision, "memory_format": layout})
    worker, weights = begin(experiment)
    data = federated.load(experiment)
    tally = worker.evaluate((5, 45), weights).answer

    model = proxies.build(experiment.proxy, data.train.shape).eval()
    set_weights(model, weights)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    images = (torch.from_numpy(data.test.images[5:45]) / 255 - mean) / std
    labels = torch.from_numpy(data.test.labels[5:45])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(images)
    assert logits.dtype == getattr(torch, precision)
    loss = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="sum").item()
    assert tally.loss == pytest.approx(loss, rel=1e-6 if precision == "float32" else 2e-3)
    np.testing.assert_array_equal(tally.labels, labels)
    assert (tally.predicted == logits.argmax(1).numpy()).mean() > (0.99 if precision == "float32" else 0.9)


STRATEGIES: dict[str, dict[str, Any]] = {
    "fedprox": {"name": "fedprox", "mu": 0.1},
    "fml": {"name": "fml"},
    "fedlpfm": {"name": "fedlpfm", "loss": {"name": "cosine"}},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_client_makes_does_not_depend_on_who_was_there_before(small: Make, strategy: str) -> None:
    experiment = small(strategy=STRATEGIES[strategy])
    targets = {"features": np.random.default_rng(0).normal(size=(1, 200, 12)).astype(np.float32)}
    used, weights = begin(experiment)
    sizes = [len(shard) for shard in federated.load(experiment).shards]

    def made(worker: Worker, client: int) -> Any:
        answers = {name: values[:, : sizes[client]] for name, values in targets.items()}
        return worker.train(ClientTask(2, client), weights, answers if strategy == "fedlpfm" else None, None)

    made(used, 0)
    again, alone = made(used, 1), made(begin(experiment)[0], 1)
    assert dict(again.answer.metrics) == dict(alone.answer.metrics)
    for one, other in ((again.weights, alone.weights), (again.kept or {}, alone.kept or {})):
        assert {name: array.tobytes() for name, array in one.items()} == {n: a.tobytes() for n, a in other.items()}


class Failing(Worker):
    """Client 1 fails."""

    def train(self, task: ClientTask, *given: Any) -> WorkerResult:
        if task.client == 1:
            raise ValueError("no")
        return super().train(task, *given)


@pytest.mark.parametrize(("failures", "tried"), [("drop", [0, 1, 2]), ("abort", [0, 1])])
def test_nobody_is_trained_after_what_ends_the_run(small: Make, failures: str, tried: list[int]) -> None:
    experiment = small(training={"failures": failures}, teacher=None)
    worker = Failing(experiment, federated.load(experiment))
    weights = worker.begin("proxy").answer.weights
    outcomes = worker.train_all([ClientTask(1, client) for client in range(3)], weights, *[None] * 6).answer
    assert [outcome.client for outcome in outcomes] == tried
    assert isinstance(outcomes[1], ClientFailure)
