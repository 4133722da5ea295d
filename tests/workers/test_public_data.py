"""A worker's outputs for the public images, and the server's training on it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import federated

from fedray.config.experiment import Experiment
from fedray.errors import RunError
from fedray.models import proxies
from fedray.models.weights import get_weights, set_weights
from fedray.types import Weights
from fedray.workers.client_models import initial_model
from fedray.workers.requests import ClientTask, LocalValue, TrainClients, TrainServer, WorkerResult
from fedray.workers.worker import Worker

Make = Callable[..., Experiment]
FEDDF = {"name": "feddf", "steps": 3, "batch_size": 16}
CLASSES = 10


def new_worker(experiment: Experiment) -> tuple[Worker, Weights]:
    data = federated.load(experiment)
    return Worker(experiment, data), get_weights(initial_model(experiment.proxy, data.train.shape, 0, "test"))


def train_client(worker: Worker, weights: Weights, client: int = 1) -> WorkerResult[Any]:
    return worker.handle(TrainClients((ClientTask(1, client),), LocalValue({"weights": weights})))


def train_server(worker: Worker, weights: Weights, public: int, number: int = 1) -> Weights:
    targets = np.random.default_rng(number).normal(size=(public, CLASSES)).astype(np.float32)
    inputs = {"weights": weights, "public_targets": {"logits": targets}}
    return worker.handle(TrainServer(number, LocalValue(inputs))).value.weights


def test_outputs_are_those_of_a_plain_forward_pass(small: Make) -> None:
    experiment = small(strategy=FEDDF)  # with batch normalisation, and two batches of 25 for 40 images
    worker, weights = new_worker(experiment)
    messages, data = train_client(worker, weights).messages, federated.load(experiment)
    assert isinstance(messages, dict)

    model = proxies.build(experiment.proxy, data.train.shape).eval()
    set_weights(model, messages["weights"].arrays)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    with torch.no_grad():
        expected = model((torch.from_numpy(data.train.images[data.public]) / 255 - mean) / std).numpy()
    logits = messages["ensemble"].arrays["outputs"]
    assert messages["ensemble"].weight == 1
    assert logits.shape == (40, CLASSES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_training_of_server_and_clients_do_not_depend_on_each_other(small: Make) -> None:
    experiment = small(strategy=FEDDF)
    used, weights = new_worker(experiment)
    first = train_server(used, weights, 40)
    client = train_client(used, weights).messages
    alone = train_client(new_worker(experiment)[0], weights).messages
    assert {n: a.tobytes() for n, a in client["weights"].arrays.items()} == {
        n: a.tobytes() for n, a in alone["weights"].arrays.items()
    }
    again = train_server(used, weights, 40)
    assert {n: a.tobytes() for n, a in again.items()} == {n: a.tobytes() for n, a in first.items()}
    assert not np.array_equal(train_server(used, weights, 40, 2)["classifier.1.bias"], first["classifier.1.bias"])


def test_training_that_diverges_is_one_sentence(small: Make) -> None:
    optimizer = {"name": "sgd", "lr": 1e30}
    worker, weights = new_worker(small(strategy={**FEDDF, "optimizer": optimizer}))
    with pytest.raises(
        RunError, match=r"^the server's training failed in round 1: \S+ (is not finite|has grown beyond)"
    ):
        train_server(worker, weights, 40)
