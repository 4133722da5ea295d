"""Inputs of the oracles: raw arrays, and the random choices that fedray derives from (seed, purpose)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedray.data.federated import FederatedDataset
from fedray.seeding import numpy_rng, torch_rng

SEED, ROUNDS, COHORT = 5, 2, 3
LOCAL_EPOCHS, BATCH, MOMENTUM, WEIGHT_DECAY = 2, 16, 0.9, 0.01
LEARNING_RATES = (0.05, 0.025)
"""Learning rate of each round: halved after the first."""
SPEC = {
    "seed": SEED,
    "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 20},
    "partition": {"kind": "dirichlet", "alpha": 0.3, "clients": 5, "min_examples": 4},
    "training": {
        "rounds": ROUNDS, "participation": COHORT / 5, "local_epochs": LOCAL_EPOCHS, "batch_size": BATCH,
        "optimizer": {"lr": LEARNING_RATES[0], "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY},
        "schedule": {"name": "step", "every": 1, "gamma": 0.5},
    },
    "resources": {"backend": "serial"},
}  # fmt: skip
"""The spec of every oracle, without its strategy."""


@dataclass(frozen=True)
class Client:
    """One client's examples in float64."""

    number: int
    images: Tensor  # [n, 1, 8, 8], mean 0 and standard deviation 1 over the training set
    labels: Tensor  # [n]
    positions: np.ndarray  # [n], positions in the training set

    def batches(self, number: int) -> Iterator[tuple[float, Tensor]]:
        """Learning rate and positions of each batch of a round. A last batch of one joins the batch before it."""
        for epoch in range((number - 1) * LOCAL_EPOCHS, number * LOCAL_EPOCHS):
            for part in self.epoch(epoch, SEED, BATCH):
                yield LEARNING_RATES[number - 1], part

    def epoch(self, epoch: int, seed: int, batch_size: int) -> list[Tensor]:
        """Positions of each batch of one epoch, counted over all rounds from 0."""
        order = torch.from_numpy(numpy_rng(seed, "order", self.number, epoch).permutation(len(self.labels)))
        parts = list(order.split(batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts


def clients_of(data: FederatedDataset) -> list[Client]:
    """Normalise the raw images, and divide them by the partition."""
    pixels = torch.from_numpy(data.train.images).double() / 255
    images = (pixels - pixels.mean()) / pixels.std(correction=0)
    labels = torch.from_numpy(data.train.labels)
    return [Client(i, images[shard], labels[shard], shard) for i, shard in enumerate(data.shards)]


def cohort(clients: list[Client], number: int) -> list[Client]:
    """The clients of round 1, 2, ..., in ascending order."""
    chosen = numpy_rng(SEED, "cohort", number).choice(len(clients), COHORT, replace=False)
    return [clients[i] for i in sorted(chosen)]


def new_cnn(*purpose: str | int, norm: bool = False) -> nn.Sequential:
    """The CNN of the FedAvg paper in float64, with the initial weights that belong to a purpose."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        layers = [nn.Conv2d(inputs, outputs, 5, padding=2), *([nn.BatchNorm2d(outputs)] if norm else [])]
        return [*layers, nn.ReLU(), nn.MaxPool2d(2)]

    with torch_rng(None, SEED, *purpose):
        convolutions = [*block(1, 32), *block(32, 64)]
        model = nn.Sequential(
            *convolutions, nn.Flatten(), nn.Linear(64 * 2 * 2, 512), nn.ReLU(), nn.Linear(512, 10)
        )  # fmt: skip
    return model.double().train()
