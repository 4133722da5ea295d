"""A labelled image set, and the ways to take a part of it."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedray.errors import SpecError
from fedray.seeding import numpy_rng
from fedray.types import ImageShape, Indices


@dataclass(frozen=True)
class Dataset:
    """Images as they were read, before any normalisation."""

    name: str
    images: npt.NDArray[np.uint8]  # [N, channels, size, size]
    labels: Indices  # [N], 0 .. len(classes) - 1
    rows: Indices  # [N], each example's row in its source
    paths: npt.NDArray[np.str_] | None  # [N], where the source names its images
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> ImageShape:
        return ImageShape(self.images.shape[1], self.images.shape[2], len(self.classes))

    @cached_property
    def image_digest(self) -> str:
        """The same images in the same order have the same digest."""
        return digest(self.images)

    def take(self, positions: Indices) -> "Dataset":
        """The examples at these positions, in this order."""
        return replace(
            self,
            images=self.images[positions],
            labels=self.labels[positions],
            rows=self.rows[positions],
            paths=None if self.paths is None else self.paths[positions],
        )


def digest(*arrays: npt.NDArray[Any]) -> str:
    """SHA-256 of arrays: their shapes, types and contents."""
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(repr((array.shape, array.dtype.str)).encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def balanced(labels: Indices, count: int, seed: int, purpose: str) -> Indices:
    """Sorted positions of `count` examples, as equally many of each class as can be (int64 [count]).

    Where `count` does not divide evenly, or a class runs out, the other classes give one more.
    Raises SpecError where there are fewer than `count` examples.
    """
    if count > len(labels):
        raise SpecError(f"data.{purpose} is {count}, but there are only {len(labels)} examples.")
    order = numpy_rng(seed, purpose).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)  # how many of its class come before it, in this order
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])


def channel_statistics(dataset: Dataset) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of each channel, as float32 [channels], images scaled to 0..1."""
    parts = range(0, len(dataset), 64)  # counting takes eight times the memory of what is counted
    counts = [
        np.sum([np.bincount(dataset.images[start : start + 64, c].ravel(), minlength=256) for start in parts], axis=0)
        for c in range(dataset.images.shape[1])
    ]
    levels = np.arange(256) / 255
    mean = np.array([levels @ n / n.sum() for n in counts])
    variance = np.array([levels**2 @ n / n.sum() for n in counts]) - mean**2
    return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1e-12)).astype(np.float32)
