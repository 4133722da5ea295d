"""Local training: the only SGD loop in fedray. Clients run it, and so does the stand-in teacher."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedray import objective
from fedray.config import Training
from fedray.data.dataset import Dataset
from fedray.data.federation import Federation
from fedray.data.views import apply_views, choose_views
from fedray.objective import Step
from fedray.seeding import numpy_rng, torch_rng
from fedray.types import Indices, Term


@dataclass(frozen=True)
class Normalization:
    """Channel means and deviations, float32 [1, C, 1, 1], for images scaled to 0..1."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, federation: Federation, device: torch.device) -> "Normalization":
        mean, deviation = (
            torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (federation.mean, federation.deviation)
        )
        return cls(mean, deviation)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, C, S, S] -> float32, mean 0 and deviation 1 over the training set."""
        return (images.float() / 255 - self.mean) / self.deviation


class Lessons(Protocol):
    """The teacher's answers for a batch of one client's examples."""

    def __call__(self, seen: "Seen") -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Seen:
    """Which examples a batch is made of, and how they were changed."""

    epoch: int  # counted over all rounds
    chosen: Tensor  # int64 [B], places in the shard
    plain: Tensor  # uint8 [B, C, S, S], as they were read
    views: Tensor  # uint8 [B, C, S, S], cropped and flipped
    mix: float  # the share of each image; the rest is the image before it in the batch


@dataclass(frozen=True)
class Shard:
    """One client's examples, on the device that trains."""

    images: Tensor  # uint8 [n, C, S, S], or whatever `normalize` takes
    labels: Tensor  # int64 [n]
    examples: Indices  # [n], which training examples these are: a view depends on it
    normalize: Callable[[Tensor], Tensor]  # -> float32 [B, ...], what the model takes
    lessons: Lessons | None = None
    crop_flip: bool = False
    mixup: float = 0.0  # mixes images by shares drawn from Beta(mixup, mixup); 0 does not

    @classmethod
    def of(
        cls,
        data: Dataset,
        examples: Indices,
        normalize: Callable[[Tensor], Tensor],
        device: torch.device,
        lessons: Lessons | None = None,
        *,
        crop_flip: bool = False,
        mixup: float = 0.0,
    ) -> "Shard":
        """Copy a data set to the device."""
        images, labels = (torch.from_numpy(array).to(device) for array in (data.images, data.labels))
        return cls(images, labels, examples, normalize, lessons, crop_flip, mixup)

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class Batch:
    images: Tensor  # float32 [B, C, S, S]
    labels: Tensor  # int64 [B]
    taught: Mapping[str, Tensor]  # the teacher's `logits` [B, classes] or `features` [B, d]


def local_update(
    models: Mapping[str, nn.Module],
    objectives: Mapping[str, Sequence[Term]],
    shard: Shard,
    training: Training,
    *,
    first_epoch: int,
    seed: int,
    client: int,
) -> dict[str, float]:
    """Train `models` in place for `training.local_epochs` epochs, each on its own objective.

    Models that are trained together see the same batches, and each other's logits as constants.
    Momentum starts at zero. Returns means over the epochs' examples: each term's value
    (`loss_kd`; `loss_private_kd` for a model beside the proxy) and, of the last epoch,
    `local_accuracy`: the share of examples the proxy had right as it trained on them.
    """
    device = shard.labels.device
    parameters = {name: list(model.parameters()) for name, model in models.items()}
    received = {name: [p.detach().clone() for p in own] for name, own in parameters.items()}
    optimizer = torch.optim.SGD(
        [p for own in parameters.values() for p in own],
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    meter = Meter()
    for model in models.values():
        model.train()
    with torch_rng(device, seed, "dropout", client, first_epoch):
        for epoch in range(first_epoch, first_epoch + training.local_epochs):
            optimizer.param_groups[0]["lr"] = learning_rate(training, epoch)
            meter.start_epoch()
            for batch in batches(shard, training, seed=seed, client=client, epoch=epoch):
                logits = {name: model(batch.images) for name, model in models.items()}
                total = torch.zeros((), device=device)
                for name, terms in objectives.items():
                    projected = getattr(models[name], "projected", None)
                    step = Step(name, logits, batch.labels, batch.taught, projected, parameters[name], received[name])
                    loss, values = objective.evaluate(terms, step)
                    meter.add(step, values)
                    total = total + loss
                optimizer.zero_grad()
                total.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return meter.means(len(shard), training.local_epochs)


def learning_rate(training: Training, epoch: int) -> float:
    """Step decay by cumulative local epoch: lr · factor^(epoch // decay_every)."""
    steps = epoch // training.decay_every if training.decay_every else 0
    return training.lr * training.decay_factor**steps


def memory_format(training: Training) -> torch.memory_format:
    """How images and weights lie in memory."""
    return torch.channels_last if training.channels_last else torch.contiguous_format


def batches(shard: Shard, training: Training, *, seed: int, client: int, epoch: int) -> Iterator[Batch]:
    """One epoch in an order drawn for (seed, client, epoch), augmented and normalised on the device."""
    order = numpy_rng(seed, "order", client, epoch).permutation(len(shard))
    shares = numpy_rng(seed, "mixup", client, epoch)
    for positions in split(order, training.batch_size):
        chosen = torch.from_numpy(positions).to(shard.labels.device)
        plain = views = shard.images[chosen]
        if shard.crop_flip:
            numbers = choose_views(shard.examples[positions], seed, epoch)
            views = apply_views(plain, torch.from_numpy(numbers).to(plain.device))
        share = shares.beta(shard.mixup, shard.mixup) if shard.mixup else 1.0
        mix = max(share, 1 - share)
        images = mixed(shard.normalize(views), mix).contiguous(memory_format=memory_format(training))
        seen = Seen(epoch, chosen, plain, views, mix)
        yield Batch(images, shard.labels[chosen], shard.lessons(seen) if shard.lessons else {})


def mixed(images: Tensor, share: float) -> Tensor:
    """`share` of each image [B, ...] and the rest of the one before it (mixup, arXiv 1710.09412)."""
    return images if share == 1 else share * images + (1 - share) * images.roll(1, dims=0)


def split(order: Indices, size: int) -> list[Indices]:
    """Cut into batches of `size`; a last one of a single example joins the one before it.

    BatchNorm cannot be trained on one example.
    """
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1 and size > 1:
        cuts.pop()
    return np.split(order, cuts)


def loss_column(model: str, term: str) -> str:
    """How a term's mean is called: `loss_kd`, or `loss_private_kd` for a model beside the proxy."""
    return f"loss_{term}" if model == "proxy" else f"loss_{model}_{term}"


class Meter:
    """Sums over batches, kept on the device so that no step waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._right: Tensor | int = 0

    def start_epoch(self) -> None:
        self._right = 0

    def add(self, step: Step, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            column = loss_column(step.model, name)
            self._sums[column] = self._sums.get(column, 0) + value.double() * len(step.labels)
        if step.model == "proxy":
            self._right = self._right + (step.own_logits.detach().argmax(1) == step.labels).sum()

    def means(self, examples: int, epochs: int) -> dict[str, float]:
        means = {name: float(total) / (examples * epochs) for name, total in self._sums.items()}
        return means | {"local_accuracy": float(self._right) / examples}
