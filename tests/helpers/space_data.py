"""Small data, tiny models and short experiments in place of those that the shipped spaces name."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_model

from fedray.config.experiment import Experiment
from helpers import clip
from helpers.clip import write_clip
from helpers.images import picture, write_folder, write_parquet

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SMALL = {
    "torchvision:CIFAR10": "parquet:data/cifar10/{}-*.parquet",
    "torchvision:CIFAR100": "parquet:data/cifar100/{}-*.parquet",
}
"""Small files that replace downloads, by source."""

CORRECT_LOGITS = 150  # of the 200 rows in each table of logits


def write_home(home: Path) -> None:
    """Write the files that the spaces name by relative paths, and weights, below a folder."""
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


def write_hub(file: Path, classes: Sequence[str], per_class: int, label: str = "label") -> None:
    """Write JPEGs to a parquet file in the Hugging Face layout."""
    file.parent.mkdir(parents=True, exist_ok=True)
    labels = [c for c in range(len(classes)) for _ in range(per_class)]
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
    # A higher rate makes a MobileNetV2 diverge on this little data.
    tree["training"] |= {"rounds": 2, "local_epochs": 1, "batch_size": 16}
    tree["training"]["optimizer"] = {"name": "sgd", "lr": 0.001}
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
