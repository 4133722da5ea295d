"""One client's examples on the training device, and the batches of an epoch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedray.data.dataset import Dataset
from fedray.data.federated import FederatedDataset
from fedray.data.views import apply_views, choose_views
from fedray.models.precision import memory_format
from fedray.seeding import numpy_rng
from fedray.training.sections import Training
from fedray.types import ImageShape, Indices, TargetArrays


@dataclass(frozen=True)
class Normalization:
    """Channel means and standard deviations, float32 [1, C, 1, 1], of images scaled to 0..1."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, federated: FederatedDataset, device: torch.device) -> "Normalization":
        """Copy the statistics of a data set to a device."""
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (federated.mean, federated.std))
        return cls(mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, C, S, S] -> float32 with mean 0 and standard deviation 1 over the training set."""
        return images.float().div_(255).sub_(self.mean).div_(self.std)


def unchanged(inputs: Tensor) -> Tensor:
    """Return the inputs of a model that are not images, such as features."""
    return inputs


def feature_inputs(targets: TargetArrays, part: slice = slice(None)) -> npt.NDArray[np.float32]:
    """Return a copy of the features [1, n, d] of some images as inputs of a model, [n, d, 1, 1]."""
    return np.array(targets["features"][0, part, :, None, None])


def input_shape(inputs: Tensor, classes: int) -> ImageShape:
    """Return the shape that a model of the inputs [n, C, S, S] is built for."""
    return ImageShape(inputs.shape[1], inputs.shape[2], classes)


class Targets(Protocol):
    """Return the teacher outputs for a batch of one client's examples: `logits` [B, classes], `features` [B, d]."""

    def __call__(self, batch: "AugmentedBatch", /) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class AugmentedBatch:
    """The examples of one batch, before and after augmentation."""

    epoch: int  # counted over all rounds
    positions: Tensor  # int64 [B], positions within the client's examples
    plain: Tensor  # uint8 [B, C, S, S], not augmented
    views: Tensor  # uint8 [B, C, S, S], cropped and flipped
    mix: float  # weight of each image in its mixture; the rest is the image before it in the batch


@dataclass(frozen=True)
class ClientData:
    """One client's examples, on the training device."""

    images: Tensor  # uint8 [n, C, S, S], or any other input of `normalize`
    labels: Tensor  # int64 [n]
    examples: Indices  # [n], positions in the training set, from which views are derived
    normalize: Callable[[Tensor], Tensor]  # images of a batch -> float32 [B, ...], the model's input
    targets: Targets | None = None
    crop_flip: bool = False
    mixup: float = 0.0  # images are mixed with weights from Beta(mixup, mixup); 0 turns mixing off

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
        """The device that holds the examples."""
        return self.labels.device


@dataclass(frozen=True)
class Batch:
    """The inputs of one training step."""

    images: Tensor  # float32 [B, C, S, S]
    labels: Tensor  # int64 [B]
    targets: Mapping[str, Tensor]  # teacher outputs: `logits` [B, classes] or `features` [B, d]

    def __len__(self) -> int:
        return len(self.labels)

    def clone(self) -> "Batch":
        """Return a copy in newly allocated memory."""
        return Batch(self.images.clone(), self.labels.clone(), {name: t.clone() for name, t in self.targets.items()})

    def copy_(self, other: "Batch") -> None:
        """Copy another batch of the same size into this one's memory."""
        self.images.copy_(other.images)
        self.labels.copy_(other.labels)
        for name, target in self.targets.items():
            target.copy_(other.targets[name])


def batches(data: ClientData, training: Training, *, seed: int, client: int, epoch: int) -> Iterator[Batch]:
    """Yield the batches of one epoch, augmented and normalised on the device.

    The order is a function of (seed, client, epoch). All random numbers are copied to the device before the first
    batch, so that no batch waits for the host.
    """
    layout = memory_format(training.memory_format)
    order = numpy_rng(seed, "order", client, epoch).permutation(len(data))
    mixup_rng = numpy_rng(seed, "mixup", client, epoch)
    view_numbers = [choose_views(data.examples[order], seed, epoch)] if data.crop_flip else []
    columns = torch.from_numpy(np.stack([order, *view_numbers])).to(data.device)
    for positions, *numbers in split_batches(columns, training.batch_size):
        plain = views = data.images[positions]
        if data.crop_flip:
            views = apply_views(plain, *numbers)
        share = mixup_rng.beta(data.mixup, data.mixup) if data.mixup else 1.0
        mix = max(share, 1 - share)
        images = mixup(data.normalize(views), mix).contiguous(memory_format=layout)
        augmented = AugmentedBatch(epoch, positions, plain, views, mix)
        yield Batch(images, data.labels[positions], data.targets(augmented) if data.targets else {})


def mixup(images: Tensor, share: float) -> Tensor:
    """Return share · x[i] + (1 - share) · x[i - 1] for images x [B, ...] (mixup, arXiv 1710.09412)."""
    return images if share == 1 else share * images + (1 - share) * images.roll(1, dims=0)


def split_batches(values: Tensor, size: int) -> Sequence[Tensor]:
    """Split [..., n] into batches [..., size]. A last batch of one example is merged into the batch before it.

    BatchNorm cannot train on a single example.
    """
    count = values.shape[-1]
    cuts = list(range(size, count, size))
    if cuts and count - cuts[-1] == 1 and size > 1:
        cuts.pop()
    return values.tensor_split(cuts, dim=-1)
