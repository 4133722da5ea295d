"""The classes in examples/: their numbers, and runs on workers that cannot import them by themselves."""

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import fedray
from fedray import Experiment, ImageShape, LossTerm, Strategy
from fedray.config.loader import load
from fedray.models import proxies
from fedray.results.loader import load_results

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = (("200", "train"), ("50", "test"))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a copy of examples/ as the package `outside_examples`, which only this process can import."""
    folder = tmp_path / "only_here"
    shutil.copytree(EXAMPLES, folder / "outside_examples")
    for file in (folder / "outside_examples").iterdir():
        file.write_text(file.read_text().replace("examples.", "outside_examples."))
    monkeypatch.syspath_prepend(folder)
    yield folder / "outside_examples"
    for name in [name for name in sys.modules if name.startswith("outside_examples")]:
        del sys.modules[name]


def spec(outside: Path, *overrides: str) -> Experiment:
    (run,) = load(outside / "experiment.yaml", overrides)
    return run.experiment


def module(name: str) -> ModuleType:
    return importlib.import_module(f"outside_examples.{name}")


def test_partition_has_shares_of_one_to_four(outside: Path) -> None:
    from fedray.data import federated

    experiment = spec(outside)
    data = federated.load(experiment.data, experiment.partition, experiment.seed)
    assert [len(shard) for shard in data.shards] == [32, 64, 96, 128]  # of the 320 examples that are not public
    assert np.array_equal(np.sort(np.concatenate([*data.shards, data.public])), np.arange(400))
    assert data.train.classes == ("horizontal", "vertical")
    assert data.train.images.shape == (400, 1, 8, 8)


def test_limits_apply_to_a_source_from_outside(outside: Path) -> None:
    from fedray.data import federated

    experiment = spec(outside, "data.train_limit=40", "data.size=16")
    train, _ = federated.read_datasets(experiment.data, 0)
    assert train.images.shape == (40, 1, 16, 16)
    assert np.bincount(train.labels).tolist() == [20, 20]


def test_loss_is_half_the_distance_of_the_probabilities(outside: Path) -> None:  # noqa: ARG001
    student, teacher = torch.tensor([[0.0, 0.0], [1.0, -1.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])

    def softmax(logits: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))

    p, q = softmax(student.numpy() / 2), softmax(teacher.numpy() * 3 / 2)
    loss = module("loss").TotalVariation(power=3).compute(student, teacher, torch.tensor([0, 1]), 2.0)
    assert float(loss) == pytest.approx(2.0 * np.abs(p - q).sum(axis=1).mean() / 2, rel=1e-6)


def test_penalty_is_the_negative_entropy(outside: Path) -> None:  # noqa: ARG001
    from fedray.losses.terms import LossInputs, evaluate_objective

    terms = module("strategy").ConfidencePenalty(beta=0.5).active_objectives()["proxy"]
    inputs = LossInputs("proxy", {"proxy": torch.zeros(3, 4)}, torch.tensor([0, 1, 2]), {}, None, [], [])
    total, values = evaluate_objective(terms, inputs)
    assert float(values["negative_entropy"]) == pytest.approx(-np.log(4))
    assert float(total) == pytest.approx(np.log(4) - 0.5 * np.log(4))


def test_teacher_prefers_the_class_with_the_nearest_mean(outside: Path) -> None:
    from fedray.data import federated
    from fedray.teachers import loading

    experiment = spec(outside)
    data = federated.load(experiment.data, experiment.partition, experiment.seed)
    assert experiment.teacher is not None
    teacher = loading.load(experiment.teacher, data, 0, torch.device("cpu"))  # type: ignore[arg-type]
    public, images = data.train.take(data.public), data.test.images.reshape(100, -1) / 255
    means = [public.images[public.labels == label].reshape(-1, 64).mean(axis=0) / 255 for label in (0, 1)]
    distances = np.stack([((images - mean) ** 2).sum(axis=1) for mean in means], axis=1)
    logits = teacher.outputs(data.test.images)["logits"]
    expected = (distances[:, 0] - distances[:, 1]) / 0.5
    assert np.allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-4)


def test_values_outside_the_quantiles_count_as_the_quantiles(outside: Path) -> None:  # noqa: ARG001
    rows = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [100.0, 5.0]])
    combined = module("aggregator").WinsorizedMean(tail=0.25).reduce(rows, np.array([0.1, 0.2, 0.3, 0.3, 0.1]))
    assert combined.tolist() == pytest.approx([0.1 * 1 + 0.2 * 1 + 0.3 * 2 + 0.3 * 3 + 0.1 * 3, 5.0])


def test_server_optimizer_moves_by_the_sign(outside: Path) -> None:  # noqa: ARG001
    optimizer = module("server_optimizer").SignDescent(lr=0.5)
    weights = {"w": np.array([1.0, 2.0, 3.0], np.float32)}
    moved, _ = optimizer.step(weights, {"w": np.array([1.1, -7.0, 3.0])}, {}, ["w"])
    assert moved["w"].tolist() == [1.5, 1.5, 3.0]


def test_proxy_is_built_by_a_function_or_a_class(outside: Path) -> None:
    shape = ImageShape(1, 8, 2)
    by_name = spec(outside, "proxy.name=outside_examples.proxy:linear").proxy
    assert proxies.build(by_name, shape)[1].weight.shape == (2, 64)
    assert proxies.build(spec(outside).proxy, shape)[1].weight.shape == (16, 64)
    assert Experiment(proxy=module("proxy").linear).proxy == by_name
    with pytest.raises(fedray.SpecError, match="stem, norm and pretrained weights cannot be set for outside_examples"):
        proxies.build(by_name.model_copy(update={"norm": "group"}), shape)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_ray_has_the_bits_of_serial_on_workers_without_the_package(outside: Path, tmp_path: Path) -> None:
    import ray

    @ray.remote
    def is_importable() -> bool:
        import importlib.util

        return importlib.util.find_spec("outside_examples") is not None

    assert not ray.get(is_importable.remote())
    serial = fedray.run(spec(outside, "resources.backend=serial"), tmp_path / "serial")
    on_ray = fedray.run(spec(outside, "resources.clients_per_actor=2"), tmp_path / "ray")
    assert serial.weights.keys() == on_ray.weights.keys()
    assert all(np.array_equal(serial.weights[name], on_ray.weights[name]) for name in serial.weights)
    assert on_ray.rounds["test_accuracy"].iloc[-1] > 0.9
    assert "loss_TotalVariation" in on_ray.clients
    for name in [name for name in sys.modules if name.startswith("outside_examples")]:
        del sys.modules[name]
    shutil.rmtree(outside)
    assert load_results(tmp_path / "ray").specs["partition.kind"].tolist() == ["outside_examples.partition:Triangular"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_objects_without_a_module_run_on_ray(outside: Path, tmp_path: Path) -> None:
    """As in a notebook: classes and functions that no other process can import, and arrays as data."""
    from fedray import SGD, Data, ReadRequest, Resources, Training

    class Halved(Strategy):
        label: ClassVar[str] = "Halved"

        def objectives(self) -> dict[str, list[LossTerm]]:
            return {"proxy": [LossTerm("cross_entropy", 0.5)]}

    def build(shape: ImageShape) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape.size**2, shape.classes))

    assert outside.exists()
    train, test = (module("source").stripes(count, ReadRequest(side)) for count, side in SIZES)
    finished = {}
    for backend in ("serial", "ray"):
        experiment = Experiment(
            data=Data(train=train, test=test),
            partition=module("partition").Triangular(clients=3),
            proxy=build,  # type: ignore[arg-type]
            strategy=Halved(),
            training=Training(rounds=2, optimizer=SGD(lr=0.05)),
            resources=Resources.model_validate({"backend": backend}),
        )
        finished[backend] = fedray.run(experiment, tmp_path / backend)
    serial, on_ray = finished["serial"].weights, finished["ray"].weights
    assert all(np.array_equal(serial[name], on_ray[name]) for name in serial)
    assert fedray.run(experiment, tmp_path / "ray").rounds["round"].tolist() == [1, 2]  # finished: not run again
    assert load_results(tmp_path / "ray").specs["data.train"].iloc[0].startswith("memory:")


@pytest.mark.ray
@pytest.mark.slow
def test_script_and_study_run(outside: Path, tmp_path: Path) -> None:
    import subprocess

    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}"}
    for arguments in (
        ["outside_examples.script", str(tmp_path / "script")],
        ["fedray", "sweep", "outside_examples/space.yaml", "--results", str(tmp_path / "study")],
    ):
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=outside.parent, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(load_results(tmp_path / "study").folders) == 6
