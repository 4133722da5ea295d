"""FedBN against a second implementation in float64, its limits, and the arrays that stay on the clients."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import algorithms, federated
from helpers.algorithms import NORM, Run, contributors, mean, new_model, set_values, sgd, values
from oracles.inputs import Client
from pydantic import ValidationError
from torch import Tensor

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.errors import SpecError
from fedray.server.driver import Driver
from fedray.strategies.fedbn import FedBN
from fedray.testing import check_strategy
from fedray.types import ParameterInfo
from fedray.workers.requests import ClientTask, Initialize, LocalValue, TrainClients
from fedray.workers.worker import Worker

FEDBN = {"name": "fedbn"}
OWN = ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
"""Names of the arrays of the model's BatchNorm layer."""


def fedbn(momentum: float = 0.0, strategy: dict[str, Any] = FEDBN, **sections: Any) -> Experiment:
    return algorithms.experiment(strategy, momentum, proxy=NORM, **sections)


def oracle(clients: list[Client], momentum: float) -> tuple[list[Tensor], dict[int, list[Tensor]]]:
    """Final values of the global model, and those of each client's own layer (arXiv 2102.07623, algorithm 1)."""
    model, own = new_model(norm=True), dict[int, list[Tensor]]()
    is_own = [name in OWN for name in model.state_dict()]
    for number in range(1, algorithms.ROUNDS + 1):
        members, trained, received = contributors(clients, number), [], values(model)
        for client in members:
            local, start = copy.deepcopy(model), iter(own.get(client.number, []))
            pairs = zip(received, is_own, strict=True)
            set_values(local, [next(start, value) if stays else value for value, stays in pairs])
            sgd(local, client, number, momentum)
            trained.append(values(local))
            own[client.number] = [value for value, stays in zip(trained[-1], is_own, strict=True) if stays]
        averaged = mean(trained, [len(client.labels) for client in members])
        set_values(model, [old if stays else new for old, new, stays in zip(received, averaged, is_own, strict=True)])
    return values(model), own


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_global_and_own_arrays_equal_a_second_implementation(tmp_path: Path, momentum: float) -> None:
    run = algorithms.run(fedbn(momentum), tmp_path)
    weights, own = oracle(run.clients, momentum)
    run.assert_weights(weights)
    run.assert_states("local", own)


def test_a_message_has_shared_arrays_only_and_the_state_has_the_others() -> None:
    experiment = fedbn(training={"participation": 1.0})
    worker = Worker(experiment, federated.load(experiment))
    initial = worker.handle(Initialize()).value
    broadcast = LocalValue({"weights": initial.weights})
    first = worker.handle(TrainClients((ClientTask(1, 3),), broadcast))
    assert first.client_state is not None
    sent, kept = first.messages["weights"].arrays, first.client_state["local"]
    assert set(first.messages) == {"weights"}
    assert set(kept) == set(OWN)
    assert set(sent) == set(initial.weights) - set(OWN)
    assert first.value[0].message_bytes == sum(array.nbytes for array in sent.values())
    restored = worker.prepare(ClientTask(2, 3, state=first.client_state), broadcast.get(), None).context
    for name, array in restored.weights.items():
        np.testing.assert_array_equal(array, kept.get(name, initial.weights[name]))
    assert "local" not in restored.state


@pytest.mark.parametrize("server", ["sgd", "avgm", "adam", "yogi"])
@pytest.mark.parametrize("aggregation", ["mean", "median", "norm_clipped_mean"])
def test_the_server_never_moves_an_own_array(tmp_path: Path, server: str, aggregation: str) -> None:
    sections = {"server": {"name": server}, "aggregation": {"name": aggregation}, "training": {"rounds": 2}}
    run = algorithms.run(fedbn(**sections), tmp_path)
    initial = new_model(norm=True).state_dict()
    for name, array in run.state.weights.items():
        is_initial = np.array_equal(array, initial[name].numpy().astype(array.dtype))
        assert is_initial == (name in OWN), name


def test_bytes_count_shared_arrays_only(tmp_path: Path) -> None:
    run = algorithms.run(fedbn(), tmp_path)
    size = sum(array.nbytes for name, array in run.state.weights.items() if name not in OWN)
    rounds = pd.read_csv(tmp_path / "rounds.csv")
    assert rounds["bytes_down"].tolist() == [size * 3] * 4
    assert rounds["bytes_up"].tolist() == [size * 3, size * 2, size * 3, size * 3]


def test_a_dropped_client_keeps_its_arrays(tmp_path: Path) -> None:
    first, third = (algorithms.run(fedbn(training={"rounds": n}), tmp_path / str(n)) for n in (1, 3))
    assert third.state_rounds == {0: 3, 1: 2, 2: 1, 3: 3, 4: 1, 5: 3}
    for name, array in first.client_state(2)["local"].items():
        np.testing.assert_array_equal(third.client_state(2)["local"][name], array)


def test_a_single_client_is_fedavg(tmp_path: Path) -> None:
    """The mean over one client is the client's own value, up to the rounding of the sum."""
    sections: dict[str, Any] = {"partition": {"kind": "iid", "clients": 1}, "training": {"participation": 1.0}}
    run = algorithms.run(fedbn(0.9, **sections), tmp_path / "fedbn", Worker)
    fedavg = algorithms.run(fedbn(0.9, {"name": "fedavg"}, **sections), tmp_path / "fedavg", Worker)
    own = run.client_state(0)["local"]
    for name, array in fedavg.state.weights.items():
        np.testing.assert_allclose(own.get(name, run.state.weights[name]), array, rtol=0, atol=1e-7)


def test_own_layers_change_the_shared_arrays(tmp_path: Path) -> None:
    run = algorithms.run(fedbn(), tmp_path / "fedbn")
    fedavg = algorithms.run(fedbn(strategy={"name": "fedavg"}), tmp_path / "fedavg")
    assert np.abs(run.state.weights["7.weight"] - fedavg.state.weights["7.weight"]).max() > 1e-3


def test_a_stopped_run_resumes_with_the_same_bits_and_tables(tmp_path: Path) -> None:
    whole = algorithms.run(fedbn(0.9), tmp_path / "whole")
    resumed = algorithms.run(fedbn(0.9), tmp_path / "resumed", stop_after=2)
    assert resumed.bits == whole.bits
    assert table(resumed) == table(whole)


def test_it_follows_the_rules_of_strategies() -> None:
    check_strategy(FedBN(), proxy=NORM)


@pytest.mark.parametrize(
    "proxy", [{"name": "cnn"}, {"name": "cnn", "norm": "group"}, {"name": "resnet18", "norm": "group"}]
)
def test_a_built_in_proxy_without_batch_norm_is_refused_before_the_run(proxy: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"'fedbn', but it keeps BatchNorm .* set proxy.norm: batch"):
        Experiment.model_validate({"strategy": FEDBN, "proxy": proxy})
    Experiment.model_validate({"strategy": FEDBN, "proxy": {**proxy, "norm": "batch"}})


def test_another_proxy_without_batch_norm_is_refused_when_it_is_built(tmp_path: Path) -> None:
    driver = Driver(algorithms.experiment(FEDBN), tmp_path, SerialBackend)
    with pytest.raises(SpecError, match=r"strategy.name is 'fedbn', but it keeps BatchNorm layers"):
        next(driver.run())


class Forgetful(FedBN):
    """Does not state that its clients keep anything."""

    name: str = ""  # type: ignore[assignment]
    keeps_state = False


def test_a_strategy_that_does_not_state_that_it_keeps_arrays_is_refused(tmp_path: Path) -> None:
    spec = fedbn().model_copy(update={"strategy": Forgetful()})
    with pytest.raises(SpecError, match="its class must set keeps_state to True"):
        next(Driver(spec, tmp_path, SerialBackend).run())


@pytest.mark.parametrize(
    ("layer", "is_shared"),
    [
        *((layer, False) for layer in ("BatchNorm1d", "BatchNorm2d", "SyncBatchNorm", "BatchNormAct2d")),
        *((layer, True) for layer in ("GroupNorm", "LayerNorm", "InstanceNorm2d", "Conv2d")),
    ],
)
def test_layers_of_batch_norm_are_not_shared(layer: str, is_shared: bool) -> None:
    assert FedBN().is_shared(ParameterInfo("x.weight", (3,), layer, False, False)) == is_shared


def table(run: Run) -> str:
    return (run.folder / "client_accuracy.csv").read_text()
