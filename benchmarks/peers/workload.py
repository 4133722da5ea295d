"""Code that all tools share: data, partition, initial weights, batch orders and SGD steps.

Needs only torch and NumPy, so that it runs in the environment of each tool. `prepare.py` writes its input.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Examples(NamedTuple):
    images: Tensor  # float32 [n, 3, 32, 32], normalised
    labels: Tensor  # int64 [n]


class Score(NamedTuple):
    loss: float  # mean cross-entropy, nats
    accuracy: float


class Precision(NamedTuple):
    """Memory layout of images and weights, and whether products are computed in bfloat16."""

    memory_format: torch.memory_format = torch.contiguous_format
    bfloat16: bool = False


PLAIN = Precision()


@dataclass(frozen=True)
class Workload:
    model: str
    classes: int
    batch_size: int
    evaluation_batch: int
    sgd: Mapping[str, float]  # arguments of torch.optim.SGD
    weights: Mapping[str, Tensor]  # initial, by `state_dict` name
    shards: Sequence[Examples]  # by client
    test: Examples
    cohorts: Sequence[Sequence[int]]  # by round
    orders: Sequence[Sequence[Tensor]]  # by round and client, int64 [n]

    def cohort(self, number: int) -> Sequence[int]:
        """Return the clients of a round, counted from 1."""
        return self.cohorts[number - 1]

    def order(self, number: int, client: int) -> Tensor:
        """Return the order of a client's examples in a round, counted from 1."""
        return self.orders[number - 1][client]

    def size(self, client: int) -> int:
        """Return the number of a client's examples."""
        return len(self.shards[client].labels)

    def blank(self) -> nn.Module:
        """Return the model with weights that are to be replaced."""
        if self.model == "cnn":
            return CNN(self.classes)
        from torchvision import models

        model: nn.Module = models.get_model(self.model, num_classes=self.classes)
        return model

    def initial(self) -> nn.Module:
        """Return the model with the initial weights."""
        model = self.blank()
        model.load_state_dict(self.weights)
        return model


class CNN(nn.Module):
    """Two 5x5 convolutions, each followed by 2x2 max-pooling, and 512 hidden units; names as in fedray's `cnn`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64 * 8 * 8, 512), nn.ReLU(), nn.Linear(512, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Float [B, 3, 32, 32] -> logits [B, classes]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def load(folder: Path) -> Workload:
    """Read the workload that `prepare.py` wrote."""
    with np.load(folder / "workload.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    sizes = arrays["sizes"].tolist()
    images, labels = (part.split(sizes) for part in _examples(arrays, "train"))
    prefix = "weights."
    return Workload(
        **json.loads(str(arrays["settings"])),
        weights={n.removeprefix(prefix): torch.from_numpy(v) for n, v in arrays.items() if n.startswith(prefix)},
        shards=[Examples(*shard) for shard in zip(images, labels, strict=True)],
        test=_examples(arrays, "test"),
        cohorts=arrays["cohorts"].tolist(),
        orders=[row.split(sizes) for row in torch.from_numpy(arrays["orders"])],
    )


def _examples(arrays: Mapping[str, Any], side: str) -> Examples:
    mean, std = (torch.from_numpy(arrays[name]).view(1, -1, 1, 1) for name in ("mean", "deviation"))
    images = torch.from_numpy(arrays[f"{side}_images"]).float().div_(255).sub_(mean).div_(std)
    return Examples(images, torch.from_numpy(arrays[f"{side}_labels"]))


def train(workload: Workload, model: nn.Module, number: int, client: int, precision: Precision = PLAIN) -> None:
    """Train one local epoch of a round with SGD, whose momentum starts at zero."""
    images, labels = workload.shards[client]
    optimizer = torch.optim.SGD(model.parameters(), **workload.sgd)
    model.train()
    for batch in workload.order(number, client).split(workload.batch_size):
        loss = F.cross_entropy(_logits(model, images[batch], precision), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def evaluate(workload: Workload, model: nn.Module, precision: Precision = PLAIN) -> Score:
    """Return loss and accuracy on the test set."""
    model.eval()
    batches = workload.test.images.split(workload.evaluation_batch)
    logits, labels = torch.cat([_logits(model, images, precision) for images in batches]), workload.test.labels
    return Score(F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item())


def _logits(model: nn.Module, images: Tensor, precision: Precision) -> Tensor:
    """Return float32 logits [B, classes]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision.bfloat16):
        logits: Tensor = model(images.contiguous(memory_format=precision.memory_format))
    return logits.float()


def announce(number: int, rounds: int, score: Score) -> None:
    """Print the line that marks the end of a round for `measure.py`."""
    print(f"round {number}/{rounds}, loss {score.loss:.6f}, accuracy {score.accuracy:.4f}", flush=True)


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of a tool's command line."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the workload, prepared by compare.py")
    parser.add_argument("rounds", type=int)
    return parser
