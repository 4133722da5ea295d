"""The shipped spaces: comments are true, named files and models exist, trials run on small data and tiny teachers."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import timm
import torch
from helpers.space_data import CIFAR10, CORRECT_LOGITS, shrunk, write_home
from torchvision import datasets

import fedray
from fedray.config import loader
from fedray.config.experiment import Experiment
from fedray.config.loader import Run
from fedray.config.yaml_files import flatten, to_yaml
from fedray.data.partition import FromFile
from fedray.models.proxies import Proxy, build
from fedray.seeding import numpy_rng
from fedray.teachers.sections import members
from fedray.types import ImageShape

FOLDER = Path(__file__).parents[1] / "tune_spaces"

NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))

SPECIAL: Sequence[tuple[str, Mapping[str, Any]]] = [
    ("quickstart", {"strategy.name": "fedlpfm"}),
    ("lambda", {"partition.alpha": 0.01, "strategy.lam": 1.0}),
    ("heterogeneity", {"partition.classes_per_client": 1, "strategy.name": "fml"}),
    ("heterogeneity", {"partition.classes_per_client": 5, "strategy.name": "fedprox"}),
    ("backbones", {"teacher.assignment": "random", "teacher.teachers.1.backbone.model": "RN50"}),
    ("losses", {"strategy.loss.name": "function_matching"}),
    ("losses", {"strategy.loss.name": "feature_mse", "strategy.lam": 0.9}),
    ("losses", {"strategy.loss.direction": "reverse", "strategy.temperature": 4.0}),
    ("teachers_per_client", {"teacher.combine": "weighted", "partition.kind": "class_split"}),
    ("teachers_per_client", {"teacher.combine": "best"}),
    ("datasets", {"partition.kind": "file", "strategy.name": "fedlpfm"}),
    ("datasets", {"data.train": "folder:data/tiny-imagenet/train", "strategy.name": "fedlpfm"}),
    ("larger_teachers", {"teacher.model": "swin_large_patch4_window7_224"}),
    ("overhead", {"strategy.name": "fedlpfm", "teacher.mode": "online"}),
    ("cifar10_class_split", {"strategy.lam": 1.0, "strategy.temperature": 4.0}),
    ("cifar10_lambda", {"strategy.lam": 0.5}),
    ("cifar10_losses", {"strategy.loss.name": "dkd"}),
    ("cifar10_teachers", {"teacher.combine": "mean_probabilities"}),
    ("cifar10_study", {"partition.alpha": 0.05, "strategy.name": "fedlpfm"}),
]
"""Trials to run in addition to the first of each file, selected by some of their fields."""

QUICK = ("quickstart", "lambda", "backbones", "losses", "datasets", "cifar10_study")
"""Spaces whose first trial runs in `make test`."""

FIRST = [pytest.param(name, {}, marks=[] if name in QUICK else pytest.mark.slow) for name in NAMES]

CASES = [*FIRST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SPECIAL)]


@cache
def runs(name: str) -> list[Run]:
    return loader.read(FOLDER / f"{name}.yaml").runs()


def comment(name: str) -> str:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", NAMES)
class TestComments:
    def test_number_of_trials(self, name: str) -> None:
        (stated,) = re.findall(r"^# (\d+) (?:trial|run)s?\b", comment(name), re.MULTILINE)
        assert len(runs(name)) == int(stated)

    def test_trials_differ(self, name: str) -> None:
        found = runs(name)
        assert len({to_yaml(run.experiment) for run in found}) == len({run.name for run in found}) == len(found)

    def test_trials_without_distillation_do_not_differ_by_teacher_only(self, name: str) -> None:
        without_teacher = [run.experiment for run in runs(name) if not run.experiment.strategy.needs_teacher]
        assert len({to_yaml(spec.model_copy(update={"teacher": None})) for spec in without_teacher}) == len(
            without_teacher
        )

    def test_command(self, name: str) -> None:
        commands = re.findall(r"^#   fedray (run|sweep) (\S+)", comment(name), re.MULTILINE)
        ways = {"run", "sweep"} if loader.read(FOLDER / f"{name}.yaml").axes else {"run"}
        assert [file for _, file in commands] == [f"tune_spaces/{name}.yaml"]
        assert commands[0][0] in ways


@pytest.mark.parametrize("name", NAMES)
class TestNames:
    def test_weights_are_published(self, name: str) -> None:
        for network in networks(name):
            if network["kind"] == "zero_shot":
                assert network["pretrained"] in open_clip.list_pretrained_tags_by_model(network["model"])
            elif network["kind"] == "classifier":
                assert timm.is_model_pretrained(network["model"])
                outputs = timm.get_pretrained_cfg(network["model"]).num_classes
                assert max(map(max, network["class_map"].values())) < outputs == 1000

    def test_proxies_fit_the_images(self, name: str) -> None:
        for proxy in {run.experiment.proxy for run in runs(name)}:
            assert {tuple(logits_of(proxy, size).shape) for size in (32, 64)} == {(1, 10)}

    def test_data_sets_exist(self, name: str) -> None:
        sources = {source for run in runs(name) for source in (run.experiment.data.train, run.experiment.data.test)}
        kinds = [source.partition(":")[::2] for source in sources]
        assert {argument for kind, argument in kinds if kind == "torchvision"} <= set(datasets.__all__)

    def test_partitions_are_possible(self, name: str) -> None:
        """Whether a partition succeeds depends on the class sizes only, so labels of these sizes suffice."""
        specs = [run.experiment for run in runs(name)]
        partitions = {(spec.partition, spec.seed, spec.data.train, spec.data.train_limit) for spec in specs}
        for partition, seed, source, limit in partitions:
            if not isinstance(partition, FromFile):
                classes, per_class = CLASSES_AND_EXAMPLES_PER_CLASS[source]
                per_class = min(per_class, (limit or math.inf) // classes)
                shards = partition.split(np.repeat(np.arange(classes), per_class), numpy_rng(seed, "partition"))
                assert sum(map(len, shards)) == classes * per_class
                assert len(shards) == partition.clients


CLASSES_AND_EXAMPLES_PER_CLASS = {
    "digits": (10, 115),  # about 80% of the training set, itself 80% of the data
    "torchvision:CIFAR10": (10, 5000),
    "torchvision:CIFAR100": (100, 500),
    "folder:data/tiny-imagenet/train": (200, 500),
    "parquet:data/cifar10/test-*.parquet": (10, 1000),
}


@cache
def logits_of(proxy: Proxy, size: int) -> torch.Tensor:
    model = build(proxy, ImageShape(3, size, 10))
    with torch.inference_mode():
        return model.eval()(torch.zeros(1, 3, size, size))


def networks(name: str) -> list[dict[str, Any]]:
    """The distinct image teachers of a space, as YAML trees."""
    specs = [getattr(member, "backbone", member) for run in runs(name) for member in members(run.experiment.teacher)]
    found = {json.dumps(spec.model_dump(mode="json")) for spec in specs if spec is not None}
    return [json.loads(text) for text in sorted(found)]


def test_imagenet_classes_that_map_to_cifar10() -> None:
    (mapping,) = {json.dumps(n["class_map"]) for n in networks("larger_teachers") if n["kind"] == "classifier"}
    described = timm.data.ImageNetInfo().label_descriptions()
    names = list(described.values()) if isinstance(described, dict) else list(described)
    groups = {name: [names[output] for output in outputs] for name, outputs in json.loads(mapping).items()}
    assert tuple(groups) == CIFAR10
    assert len(names) == 1000
    everything = [name for group in groups.values() for name in group]
    assert len(set(everything)) == len(everything)
    ends = {name: (group[0].split(",")[0], group[-1].split(",")[0], len(group)) for name, group in groups.items()}
    assert ends == {
        "airplane": ("airliner", "warplane", 2),
        "automobile": ("beach wagon", "sports car", 9),
        "bird": ("cock", "albatross", 59),
        "cat": ("tabby", "Egyptian cat", 5),
        "deer": ("hartebeest", "gazelle", 3),
        "dog": ("Chihuahua", "Mexican hairless", 118),
        "frog": ("bullfrog", "tailed frog", 3),
        "horse": ("sorrel", "sorrel", 1),
        "ship": ("aircraft carrier", "yawl", 11),
        "truck": ("fire engine", "trailer truck", 5),
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the spaces name by relative paths, and with weights."""
    folder = tmp_path_factory.mktemp("home")
    write_home(folder)
    return folder


@pytest.mark.parametrize(("name", "fields"), CASES, ids=lambda part: part if isinstance(part, str) else words(part))
def test_trial_runs(
    name: str, fields: Mapping[str, Any], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    chosen = next(
        run for run in runs(name) if fields.items() <= flatten(run.experiment.model_dump(mode="json")).items()
    )
    experiment = shrunk(chosen.experiment)
    assert [result.round for result in fedray.rounds(experiment, tmp_path)] == [1, 2]
    results = fedray.load_results(tmp_path)
    check_partition(experiment, results.partition)
    check_rounds(results.rounds, clients=results.partition["client"].nunique())
    check_losses(experiment, results.clients)
    check_teachers(experiment, results.rounds, tmp_path, examples=int(results.partition["examples"].sum()))


def words(fields: Mapping[str, Any]) -> str:
    return ",".join(str(value) for value in fields.values()) or "first"


def check_rounds(rounds: pd.DataFrame, clients: int) -> None:
    assert rounds["clients"].tolist() == [clients] * 2
    assert rounds["failed_clients"].tolist() == [0, 0]
    assert rounds["test_accuracy"].between(0, 1).all()
    assert np.isfinite(rounds["test_loss"]).all()
    assert rounds["test_loss"].nunique() == 2  # the model changes every round
    assert (rounds["bytes_up"] == rounds["bytes_down"]).all()


def check_partition(experiment: Experiment, table: pd.DataFrame) -> None:
    """The class counts of the clients fit the kind of partition."""
    counts = table.pivot_table(index="client", columns="class", values="examples", fill_value=0).to_numpy()
    sizes = counts.sum(axis=1)
    largest = (counts.max(axis=1) / counts.sum(axis=1)).mean()
    spec = experiment.partition.model_dump()
    match spec["kind"]:
        case "iid":
            assert np.ptp(sizes) <= 1
            assert largest < 0.3
        case "class_split":
            assert ((counts > 0).sum(axis=1) == spec["classes_per_client"]).all()
        case "dirichlet":
            assert sizes.min() >= 10
            assert largest > (0.8 if spec["alpha"] == 0.01 else 0.2)
        case "file":
            assert sizes.tolist() == [32, 32, 32, 64]
            assert (np.ptp(counts, axis=1) == 0).all()  # all classes have equal counts
    assert len(sizes) == spec.get("clients", 4)


def check_losses(experiment: Experiment, clients: pd.DataFrame) -> None:
    """The table has the loss terms of the strategy, with finite values, and no others."""
    spec = experiment.strategy.model_dump()
    expected = {
        "fedavg": {"cross_entropy"},
        "fedprox": {"cross_entropy", "proximal"},
        "fml": {"cross_entropy", "mutual", "private_cross_entropy", "private_mutual"},
        "fedlpfm": ({"cross_entropy"} if spec.get("lam") != 1 else set())
        | ({spec["loss"]["name"]} if spec.get("lam") else set()),
    }[spec["name"]]
    found = clients.filter(regex="^loss_")
    assert set(found.columns) == {f"loss_{term}" for term in expected}
    assert np.isfinite(found).all(axis=None)
    assert (found.mean() > 0).all()


def check_teachers(experiment: Experiment, rounds: pd.DataFrame, folder: Path, examples: int) -> None:
    """Forward passes per example: one for cached outputs, one per round online, none without distillation."""
    queries, passes = rounds["teacher_outputs_used"].tolist(), rounds["teacher_forward_passes"].tolist()
    teacher: Any = experiment.teacher
    if not experiment.strategy.needs_teacher:
        assert queries == passes == [0, 0]
        return
    assignment = getattr(teacher, "assignment", None)
    per_example = len(teacher.teachers) if assignment == "all" else 1
    assert queries == [examples * per_example] * 2
    if members(teacher)[0].kind == "precomputed":
        assert passes == [0, 0]
        environment = json.loads((folder / "environment.json").read_text())
        assert math.isclose(environment["teacher_accuracy"], CORRECT_LOGITS / 200)
        return
    assert passes == [examples * per_example, examples * per_example if teacher.mode == "online" else 0]
    costs = json.loads((folder / "costs.json").read_text())["teacher"]
    assert costs["forward_passes_saved"] == sum(queries) - sum(passes)
    assert costs["flops"] > 0
    teachers = {entry["teacher"] for entry in costs["entries"].values()}
    assert len(teachers) == (0 if teacher.mode == "online" else len(members(teacher)))
