"""The smallest batch goes through the model before training: what it refuses, and that it changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import federated
from safetensors.numpy import load_file

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.errors import RepeatableError, SpecError
from fedray.models.weights import get_weights
from fedray.server.driver import Driver
from fedray.server.smallest_batch import check_smallest_batch, smallest_batches
from fedray.training.batches import split_batches
from fedray.types import Weights
from fedray.workers.requests import Initialize, LocalValue, TryBatch
from fedray.workers.worker import Worker

Make = Callable[..., Experiment]
SINGLES = {"kind": "iid", "clients": 60}
RESNET = {"name": "resnet18", "norm": None}


def checked(experiment: Experiment) -> tuple[str, ...]:
    data = federated.load(experiment)
    backend = SerialBackend(experiment, data)
    (initial,) = backend.collect([Initialize()])
    return check_smallest_batch(experiment, data, backend, backend.share({"weights": initial.weights}))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
def test_smallest_batches_are_those_of_the_sgd_loop(small: Make, batch_size: int) -> None:
    shards = [np.arange(examples) for examples in range(40)]
    found = smallest_batches(small(training={"batch_size": batch_size}), shards)
    assert 0 not in found
    for examples in range(1, 40):
        batches = split_batches(torch.arange(examples), batch_size)
        assert found[examples] == min(map(len, batches)), examples


def test_batch_norm_with_a_client_of_one_example(small: Make, tmp_path: Path) -> None:
    """60 examples of 60 clients: refused before a table or the spec is written."""
    experiment = small(
        data={"train_limit": 60, "public_fraction": 0.0}, partition=SINGLES, proxy=RESNET, teacher=None,
        training={"participation": 0.02},
    )  # fmt: skip
    with pytest.raises(SpecError) as caught:
        next(Driver(experiment, tmp_path).run())
    assert str(caught.value).startswith(
        "proxy.name is 'resnet18', whose BatchNorm layers cannot train on a batch of one example, and client "
    )
    assert str(caught.value).endswith(" has one example; give each client two or more, or set proxy.norm: group.")
    assert {file.name for file in tmp_path.iterdir()} <= {".lock"}
    assert checked(small(**{**experiment.model_dump(), "proxy": {"name": "resnet18", "norm": "group"}})) == ()


def test_batch_norm_with_batches_of_one(small: Make) -> None:
    with pytest.raises(SpecError) as caught:
        checked(small(proxy=RESNET, training={"batch_size": 1}, teacher=None))
    assert str(caught.value) == (
        "proxy.name is 'resnet18', whose BatchNorm layers cannot train on a batch of one example, and "
        "training.batch_size is 1; raise it, or set proxy.norm: group."
    )


def test_private_model_is_named(small: Make) -> None:
    strategy = {"name": "fml", "private": {"name": "resnet18"}}
    with pytest.raises(SpecError, match=r"^strategy\.private\.name is 'resnet18', .* or set strategy\.private\.norm"):
        checked(small(strategy=strategy, training={"batch_size": 1}, teacher=None))


def one_single(folder: Path, participation: float = 1.0, **training: Any) -> dict[str, Any]:
    """Sections of a partition whose client 0 has one example, and the others 20."""
    return {
        "data": {"train_limit": None, "public_fraction": 0.0},
        "partition": {"kind": "file", "file": str(folder / "clients.csv"), "partial": True},
        "proxy": RESNET, "teacher": None, "training": {"participation": participation, "rounds": 2, **training},
    }  # fmt: skip


def indexed(folder: Path, small: Make, **changes: Any) -> Experiment:
    """An experiment with this partition, written to a file."""
    sections = one_single(folder, **changes)
    rows = federated.load(small(data=sections["data"], teacher=None)).train.rows
    table = pd.DataFrame({"client": np.repeat([0, 1, 2], [1, 20, 20]), "index": rows[: 1 + 20 + 20]})
    table.to_csv(folder / "clients.csv", index=False)
    return small(**sections)


def test_client_that_is_never_drawn_does_no_harm(small: Make, tmp_path: Path) -> None:
    """One client of three trains in each of two rounds; whether it is client 0 depends on the seed."""
    from fedray.server.cohort import draw_cohort

    experiment = indexed(tmp_path, small, participation=0.34)
    shards = federated.load(experiment).shards
    outcomes = set()
    for seed in range(8):
        seeded = experiment.model_copy(update={"seed": seed})
        is_drawn = any(0 in draw_cohort(seeded, shards, number) for number in (1, 2))
        outcomes.add(is_drawn)
        if is_drawn:
            with pytest.raises(SpecError, match="client 0 has one example"):
                checked(seeded)
        else:
            assert checked(seeded) == ()
        if len(outcomes) == 2:
            break
    assert outcomes == {True, False}


def test_failing_client_is_a_warning_where_failures_are_dropped(small: Make, tmp_path: Path) -> None:
    experiment = indexed(tmp_path, small, failures="drop", rounds=1)
    (first,) = Driver(experiment, tmp_path / "run").run()
    (warning,) = first.warnings
    assert warning.startswith("a client will fail, and its update be dropped: proxy.name is 'resnet18'")
    assert first.row["failed_clients"] == 1


def test_model_that_no_client_can_train_is_refused_even_if_failures_are_dropped(small: Make) -> None:
    with pytest.raises(SpecError, match=r"training\.batch_size is 1"):
        checked(small(proxy=RESNET, training={"batch_size": 1, "failures": "drop"}, teacher=None))


def test_model_that_does_not_fit_the_images(small: Make) -> None:
    """A ViT of 16x16 patches on images of 8x8 pixels."""
    with pytest.raises(SpecError) as caught:
        checked(small(proxy={"name": "timm:vit_tiny_patch16_224", "norm": None}, teacher=None))
    assert str(caught.value).startswith("proxy.name is 'timm:vit_tiny_patch16_224', which ")
    assert "8x8" in str(caught.value)


def snapshot(worker: Worker) -> dict[str, bytes]:
    models = {name: worker._models.model(name) for name in ("proxy", "private")}
    return {
        f"{name}.{key}": array.tobytes() for name, model in models.items() for key, array in get_weights(model).items()
    } | {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": repr(np.random.get_state()).encode()}


@pytest.mark.parametrize(
    "strategy", [{"name": "fml"}, {"name": "fedlpfm", "loss": {"name": "cosine"}}, {"name": "fedprox", "mu": 0.1}]
)
def test_weights_buffers_and_generators_stay_as_they_are(small: Make, strategy: dict[str, Any]) -> None:
    experiment = small(strategy=strategy)
    worker = Worker(experiment, federated.load(experiment))
    weights: Weights = worker.handle(Initialize()).value.weights
    received = {name: array.tobytes() for name, array in weights.items()}
    before = snapshot(worker)
    assert worker.handle(TryBatch(0, 5, LocalValue({"weights": weights}))).value == ""
    assert snapshot(worker) == before
    assert {name: array.tobytes() for name, array in weights.items()} == received


def finish(experiment: Experiment, folder: Path, worker: type[Worker] = Worker) -> dict[str, bytes]:
    for _ in Driver(experiment, folder, partial(SerialBackend, worker=worker)).run():
        pass
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


class WithoutCheck(Worker):
    """Does not try the batch."""

    def _try_batch(self, request: TryBatch) -> str:  # noqa: ARG002
        return ""


def test_runs_have_the_same_bits_as_without_the_check(small: Make, tmp_path: Path) -> None:
    experiment = small(strategy={"name": "fml"}, data={"augment": "crop_flip"})
    assert finish(experiment, tmp_path / "checked") == finish(experiment, tmp_path / "unchecked", WithoutCheck)


class OutOfMemoryWorker(Worker):
    """Has no memory for the batch."""

    def _client_data(self, *_: Any) -> Any:
        raise MemoryError


def test_lack_of_memory_is_left_to_the_round(small: Make) -> None:
    experiment = small(teacher=None)
    data = federated.load(experiment)
    backend = SerialBackend(experiment, data, OutOfMemoryWorker)
    (initial,) = backend.collect([Initialize()])
    assert check_smallest_batch(experiment, data, backend, backend.share({"weights": initial.weights})) == ()


class FailingLossWorker(Worker):
    """A worker whose own code fails, outside the model."""

    def _client_data(self, *arguments: Any) -> Any:
        data = super()._client_data(*arguments)
        return replace(data, labels=data.labels.to(torch.float64) + 0.5)


def test_an_error_outside_the_model_is_not_attributed_to_the_model(small: Make, tmp_path: Path) -> None:
    """The loss refuses the labels: the round fails with the original error, and nothing names the proxy."""
    with pytest.raises(RepeatableError) as caught:
        next(Driver(small(teacher=None), tmp_path, partial(SerialBackend, worker=FailingLossWorker)).run())
    assert "client 0 failed in round 1" in str(caught.value)
    assert "proxy.name" not in str(caught.value).partition("\n")[0]
    assert "Traceback" in str(caught.value)
