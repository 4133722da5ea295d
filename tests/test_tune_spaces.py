"""The shipped spaces: comments are true, named files and models exist, trials run on small data and tiny teachers."""

import csv
import io
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
from helpers import clip
from helpers.clip import write_clip
from helpers.images import picture, write_folder, write_parquet
from PIL import Image
from safetensors.torch import save_model
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
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

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
"""Whose first trials are run by `make test`."""
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
        wanted = {(spec.partition, spec.seed, spec.data.train, spec.data.train_limit) for spec in specs}
        for partition, seed, source, limit in wanted:
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


SMALL = {
    "torchvision:CIFAR10": "parquet:data/cifar10/{}-*.parquet",
    "torchvision:CIFAR100": "parquet:data/cifar100/{}-*.parquet",
}
"""Small files that replace downloads, by source."""
CORRECT_LOGITS = 150  # of the 200 rows in each table of logits


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the spaces name by relative paths, and with weights."""
    home = tmp_path_factory.mktemp("home")
    data = home / "data"
    for side in ("train", "test"):
        write_hub(data / "cifar10" / f"{side}-0.parquet", CIFAR10, 20)
        write_hub(data / "cifar100" / f"{side}-0.parquet", [f"thing_{i}" for i in range(40)], 5, label="fine_label")
        write_folder(data / "office-home" / side, ("Bed", "Fork", "Mug", "Pen"), 40, size=70)
    for side in ("train", "val"):
        write_folder(data / "tiny-imagenet" / side, [f"animal {i}" for i in range(20)], 10, size=64)
    write_clients(data / "office-home")
    for name in ("clip-vit-b-32-openai", "siglip-b-16"):
        write_logits(data / "teacher_logits" / f"{name}.parquet")
    write_weights(home / "weights")
    return home


def write_hub(file: Path, classes: Sequence[str], each: int, label: str = "label") -> None:
    """Write JPEGs to a parquet file in the Hugging Face layout."""
    file.parent.mkdir(parents=True, exist_ok=True)
    labels = [c for c in range(len(classes)) for _ in range(each)]
    blobs = []
    for number in range(len(labels)):
        stream = io.BytesIO()
        Image.fromarray(picture(number, 32)).save(stream, "JPEG")
        blobs.append(stream.getvalue())
    write_parquet(file, blobs, labels, names=classes, label=label)


def write_clients(folder: Path) -> None:
    """Write a partition among four clients by image number; the last client has twice as many images."""
    paths = sorted(str(file.relative_to(folder / "train")) for file in (folder / "train").glob("*/*.png"))
    with (folder / "clients.csv").open("w", newline="") as file:
        rows = [(min(int(Path(path).stem) % 5, 3), path) for path in paths]
        csv.writer(file).writerows([("client", "path"), *rows])


def write_logits(file: Path) -> None:
    """Write logits for the test images of cifar10; three of four predict the label."""
    file.parent.mkdir(exist_ok=True)
    labels = np.repeat(np.arange(10), 20)
    predictions = np.where(np.arange(200) < CORRECT_LOGITS, labels, (labels + 1) % 10)
    noise = np.random.default_rng(len(file.name)).uniform(size=(200, 10))
    paths = [f"test-0-{i}.png" for i in range(200)]
    pd.DataFrame({"path": paths, "logits": list(20 * np.eye(10)[predictions] + noise)}).to_parquet(file)


def write_weights(folder: Path) -> None:
    """Write random networks in the formats of open_clip and timm, under the names of published models."""
    folder.mkdir()
    write_clip(folder / "ViT-B-32")
    write_clip(folder / "ViT-B-16-SigLIP", init_logit_bias=-10)
    others = {
        "ViT-L-14": {"embed_dim": 24},
        "RN50": {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}},
    }
    for name, config in others.items():
        with pytest.MonkeyPatch.context() as patch:
            for part, value in config.items():
                patch.setitem(clip.TINY, part, value)
            write_clip(folder / name)
    torch.manual_seed(0)
    save_model(timm.create_model("test_vit", num_classes=1000), str(folder / "test_vit.safetensors"))


def shrunk(experiment: Experiment) -> Experiment:
    """The experiment with two rounds, small data and a small proxy; strategy, partition and loss are unchanged."""
    tree = experiment.model_dump(mode="json")
    data = tree["data"]
    data |= {side: SMALL.get(data[side], data[side]).format(side) for side in ("train", "test")}
    data |= {
        "train_limit": 200 if data["train"] == "digits" else None,
        "test_limit": 100,
        "size": None if data["train"] == "digits" else 16,
    }
    tree["training"] |= {"rounds": 2, "local_epochs": 1, "batch_size": 16}
    tree["resources"] = {"backend": "serial"}
    if tree["proxy"]["stem"] == "cifar":
        tree["proxy"] = {"name": "cnn"}
    if experiment.strategy.needs_teacher:  # other strategies must run without one
        tree["teacher"] = tiny(tree["teacher"])
    return Experiment.model_validate(tree)


def tiny(teacher: dict[str, Any]) -> dict[str, Any]:
    """The teacher with a tiny model."""
    match teacher["kind"]:
        case "zero_shot":
            return teacher | {"model": f"local-dir:weights/{teacher['model']}", "pretrained": None}
        case "classifier":
            return teacher | {"model": "test_vit", "pretrained": "file:weights/test_vit.safetensors"}
        case "supervised":
            return teacher | {"epochs": 2}
        case "adapted":
            return teacher | {"backbone": tiny(teacher["backbone"]), "epochs": 1}
        case "ensemble":
            return teacher | {"teachers": [tiny(member) for member in teacher["teachers"]]}
    return teacher


@pytest.mark.parametrize(("name", "fields"), CASES, ids=lambda part: part if isinstance(part, str) else words(part))
def test_trial_runs(
    name: str, fields: Mapping[str, Any], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    chosen = next(
        run for run in runs(name) if fields.items() <= flatten(run.experiment.model_dump(mode="json")).items()
    )
    experiment = shrunk(chosen.experiment)
    assert [result.round for result in fedray.run(experiment, tmp_path)] == [1, 2]
    results = fedray.load_results(tmp_path)
    check_partition(experiment, results.partition)
    check_rounds(results.rounds, clients=len(results.partition))
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
    counts = table.iloc[:, table.columns.get_loc("examples") + 1 :].to_numpy()
    assert counts.sum(axis=1).tolist() == table["examples"].tolist()
    largest = (counts.max(axis=1) / counts.sum(axis=1)).mean()
    spec = experiment.partition.model_dump()
    match spec["kind"]:
        case "iid":
            assert np.ptp(table["examples"]) <= 1
            assert largest < 0.3
        case "class_split":
            assert ((counts > 0).sum(axis=1) == spec["classes_per_client"]).all()
        case "dirichlet":
            assert table["examples"].min() >= 10
            assert largest > (0.8 if spec["alpha"] == 0.01 else 0.2)
        case "file":
            assert table["examples"].tolist() == [32, 32, 32, 64]
            assert (np.ptp(counts, axis=1) == 0).all()  # all classes have equal counts
    assert len(table) == spec.get("clients", 4)


def check_losses(experiment: Experiment, clients: pd.DataFrame) -> None:
    """The table has the loss terms of the strategy, with finite values, and no others."""
    spec = experiment.strategy.model_dump()
    wanted = {
        "fedavg": {"cross_entropy"},
        "fedprox": {"cross_entropy", "proximal"},
        "fml": {"cross_entropy", "mutual", "private_cross_entropy", "private_mutual"},
        "fedlpfm": ({"cross_entropy"} if spec.get("lam") != 1 else set())
        | ({spec["loss"]["name"]} if spec.get("lam") else set()),
    }[spec["name"]]
    found = clients.filter(regex="^loss_")
    assert set(found.columns) == {f"loss_{term}" for term in wanted}
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
