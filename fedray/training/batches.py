"""One client's examples on the device that trains, and the batches they are shown in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedray.data.dataset import Dataset
from fedray.data.federated import FederatedDataset
from fedray.data.views import apply_views, choose_views
from fedray.models.precision import memory_format
from fedray.seeding import numpy_rng
from fedray.training.sections import Training
from fedray.types import Indices


@dataclass(frozen=True)
class Normalization:
    """Channel means and deviations, float32 [1, C, 1, 1], for images scaled to 0..1."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, federated: FederatedDataset, device: torch.device) -> "Normalization":
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (federated.mean, federated.std))
        return cls(mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, C, S, S] -> float32, mean 0 and deviation 1 over the training set."""
        return images.float().div_(255).sub_(self.mean).div_(self.std)


class Targets(Protocol):
    """The teacher's answers for a batch of one client's examples."""

    def __call__(self, batch: "AugmentedBatch", /) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class AugmentedBatch:
    """Which examples a batch is made of, and how they were changed."""

    epoch: int  # counted over all rounds
    chosen: Tensor  # int64 [B], places in the shard
    plain: Tensor  # uint8 [B, C, S, S], as they were read
    views: Tensor  # uint8 [B, C, S, S], cropped and flipped
    mix: float  # the share of each image; the rest is the image before it in the batch


@dataclass(frozen=True)
class ClientData:
    """One client's examples, on the device that trains."""

    images: Tensor  # uint8 [n, C, S, S], or whatever `normalize` takes
    labels: Tensor  # int64 [n]
    examples: Indices  # [n], which training examples these are: a view depends on it
    normalize: Callable[[Tensor], Tensor]  # -> float32 [B, ...], what the model takes
    targets: Targets | None = None
    crop_flip: bool = False
    mixup: float = 0.0  # mixes images by shares drawn from Beta(mixup, mixup); 0 does not

    @classmethod
    def of(
        cls,
        data: Dataset,
        examples: Indices,
        normalize: Callable[[Tensor], Tensor],
        device: torch.device,
        targets: Targets | None = None,
        *,
        crop_flip: bool = False,
        mixup: float = 0.0,
    ) -> "ClientData":
        """Copy a data set to the device."""
        images, labels = (torch.from_numpy(array).to(device) for array in (data.images, data.labels))
        return cls(images, labels, examples, normalize, targets, crop_flip, mixup)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def device(self) -> torch.device:
        return self.labels.device


@dataclass(frozen=True)
class Batch:
    """What one step of training is given."""

    images: Tensor  # float32 [B, C, S, S]
    labels: Tensor  # int64 [B]
    targets: Mapping[str, Tensor]  # the teacher's `logits` [B, classes] or `features` [B, d]

    def __len__(self) -> int:
        return len(self.labels)

    def clone(self) -> "Batch":
        """The same at another place in memory."""
        return Batch(self.images.clone(), self.labels.clone(), {name: t.clone() for name, t in self.targets.items()})

    def copy_(self, other: "Batch") -> None:
        """Become equal to another batch of the same size."""
        self.images.copy_(other.images)
        self.labels.copy_(other.labels)
        for name, answers in self.targets.items():
            answers.copy_(other.targets[name])


def batches(shard: ClientData, training: Training, *, seed: int, client: int, epoch: int) -> Iterator[Batch]:
    """One epoch in an order drawn for (seed, client, epoch), augmented and normalised on the device.

    What the host draws goes to the device at once, so that no batch waits for it.
    """
    layout = memory_format(training.memory_format)
    order = numpy_rng(seed, "order", client, epoch).permutation(len(shard))
    shares = numpy_rng(seed, "mixup", client, epoch)
    numbers = [choose_views(shard.examples[order], seed, epoch)] if shard.crop_flip else []
    drawn = torch.from_numpy(np.stack([order, *numbers])).to(shard.device)
    for chosen, *crops in split_batches(drawn, training.batch_size):
        plain = views = shard.images[chosen]
        if shard.crop_flip:
            views = apply_views(plain, *crops)
        share = shares.beta(shard.mixup, shard.mixup) if shard.mixup else 1.0
        mix = max(share, 1 - share)
        images = mixup(shard.normalize(views), mix).contiguous(memory_format=layout)
        seen = AugmentedBatch(epoch, chosen, plain, views, mix)
        yield Batch(images, shard.labels[chosen], shard.targets(seen) if shard.targets else {})


def mixup(images: Tensor, share: float) -> Tensor:
    """`share` of each image [B, ...] and the rest of the one before it (mixup, arXiv 1710.09412)."""
    return images if share == 1 else share * images + (1 - share) * images.roll(1, dims=0)


def split_batches(drawn: Tensor, size: int) -> Sequence[Tensor]:
    """Cut [..., n] into batches [..., size]; a last one of a single example joins the one before it.

    BatchNorm cannot be trained on one example.
    """
    count = drawn.shape[-1]
    cuts = list(range(size, count, size))
    if cuts and count - cuts[-1] == 1 and size > 1:
        cuts.pop()
    return drawn.tensor_split(cuts, dim=-1)
