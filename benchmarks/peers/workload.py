"""What every tool shares: the data and who holds it, the first weights, the order of batches, the SGD steps.

Needs torch and NumPy only, so that it runs in any tool's environment. `prepare.py` writes what this reads.
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


class Arithmetic(NamedTuple):
    """How images and weights lie in memory, and what the products are made in."""

    memory_format: torch.memory_format = torch.contiguous_format
    bfloat16: bool = False


PLAIN = Arithmetic()


@dataclass(frozen=True)
class Workload:
    model: str
    classes: int
    batch_size: int
    evaluation_batch: int
    sgd: Mapping[str, float]  # what torch.optim.SGD takes
    weights: Mapping[str, Tensor]  # the first ones, by their `state_dict` names
    shards: Sequence[Examples]  # of each client
    test: Examples
    cohorts: Sequence[Sequence[int]]  # of each round
    orders: Sequence[Sequence[Tensor]]  # of each round and client, int64 [n]

    def cohort(self, number: int) -> Sequence[int]:
        """Who takes part in a round, counted from 1."""
        return self.cohorts[number - 1]

    def order(self, number: int, client: int) -> Tensor:
        """How a client's examples follow one another in a round, counted from 1."""
        return self.orders[number - 1][client]

    def size(self, client: int) -> int:
        """How many examples a client holds."""
        return len(self.shards[client].labels)

    def blank(self) -> nn.Module:
        """The model, its weights still to be set."""
        if self.model == "cnn":
            return CNN(self.classes)
        from torchvision import models

        model: nn.Module = models.get_model(self.model, num_classes=self.classes)
        return model

    def initial(self) -> nn.Module:
        """The model that everybody begins with."""
        model = self.blank()
        model.load_state_dict(self.weights)
        return model


class CNN(nn.Module):
    """Two 5x5 convolutions, each halved by max-pooling, and 512 units. Names are those of fedray's `cnn`."""

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
    """Read what `prepare.py` wrote."""
    with np.load(folder / "workload.npz") as stored:
        kept = {name: stored[name] for name in stored.files}
    sizes = kept["sizes"].tolist()
    images, labels = (part.split(sizes) for part in _examples(kept, "train"))
    prefix = "weights."
    return Workload(
        **json.loads(str(kept["settings"])),
        weights={n.removeprefix(prefix): torch.from_numpy(v) for n, v in kept.items() if n.startswith(prefix)},
        shards=[Examples(*shard) for shard in zip(images, labels, strict=True)],
        test=_examples(kept, "test"),
        cohorts=kept["cohorts"].tolist(),
        orders=[row.split(sizes) for row in torch.from_numpy(kept["orders"])],
    )


def _examples(kept: Mapping[str, Any], side: str) -> Examples:
    mean, std = (torch.from_numpy(kept[name]).view(1, -1, 1, 1) for name in ("mean", "deviation"))
    images = torch.from_numpy(kept[f"{side}_images"]).float().div_(255).sub_(mean).div_(std)
    return Examples(images, torch.from_numpy(kept[f"{side}_labels"]))


def train(workload: Workload, model: nn.Module, number: int, client: int, arithmetic: Arithmetic = PLAIN) -> None:
    """One local epoch of a round: SGD from zero momentum."""
    images, labels = workload.shards[client]
    optimizer = torch.optim.SGD(model.parameters(), **workload.sgd)
    model.train()
    for chosen in workload.order(number, client).split(workload.batch_size):
        loss = F.cross_entropy(_logits(model, images[chosen], arithmetic), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def evaluate(workload: Workload, model: nn.Module, arithmetic: Arithmetic = PLAIN) -> Score:
    """On the test set."""
    model.eval()
    batches = workload.test.images.split(workload.evaluation_batch)
    logits, labels = torch.cat([_logits(model, images, arithmetic) for images in batches]), workload.test.labels
    return Score(F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item())


def _logits(model: nn.Module, images: Tensor, arithmetic: Arithmetic) -> Tensor:
    """float32 [B, classes], whatever they were computed in."""
    with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic.bfloat16):
        logits: Tensor = model(images.contiguous(memory_format=arithmetic.memory_format))
    return logits.float()


def announce(number: int, rounds: int, score: Score) -> None:
    """A round is over, now: whoever measures reads this line as it comes."""
    print(f"round {number}/{rounds}, loss {score.loss:.6f}, accuracy {score.accuracy:.4f}", flush=True)


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """What every tool's command takes."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the workload, as compare.py prepares it")
    parser.add_argument("rounds", type=int)
    return parser
