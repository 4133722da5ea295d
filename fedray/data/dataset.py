"""A labelled image set, its digest, class-balanced subsets and channel statistics."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedray.errors import SpecError
from fedray.seeding import numpy_rng
from fedray.types import ImageShape, Indices


@dataclass(frozen=True)
class Dataset:
    """Labelled images as read from a source, before normalisation."""

    name: str
    images: npt.NDArray[np.uint8]
    """[N, channels, size, size]"""
    labels: Indices
    """[N], from 0 to len(classes) - 1"""
    rows: Indices
    """[N], the row of each example in its source, before any limit"""
    paths: npt.NDArray[np.str_] | None
    """[N], the path of each image; None if the source has no paths"""
    classes: tuple[str, ...]
    """Class names; a class's label is its index. Two classes may have equal names."""
    named: bool = True
    """Whether the source has class names; if not, `classes` are the labels as text."""
    left_out: tuple[str, ...] = ()
    """Clauses for a warning: files that were left out of the source, and classes that have no test image."""
    stamp: str = ""
    """Stamp of the source's files before they were read; empty if it is unknown which files the source reads."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> ImageShape:
        """Channels, pixels a side and number of classes."""
        return ImageShape(self.images.shape[1], self.images.shape[2], len(self.classes))

    @cached_property
    def image_digest(self) -> str:
        """SHA-256 of the images in their order, whatever their labels and paths."""
        return digest(self.images)

    @cached_property
    def content_digest(self) -> str:
        """SHA-256 of the images, labels, class names, rows and paths."""
        names = (self.classes, None if self.paths is None else self.paths.tolist())
        return hashlib.sha256(repr((self.image_digest, digest(self.labels, self.rows), names)).encode()).hexdigest()

    def take(self, positions: Indices) -> "Dataset":
        """Returns the examples at these positions, in this order."""
        return replace(
            self,
            images=self.images[positions],
            labels=self.labels[positions],
            rows=self.rows[positions],
            paths=None if self.paths is None else self.paths[positions],
        )


def digest(*arrays: npt.NDArray[np.generic]) -> str:
    """Returns the SHA-256, in hex, of the arrays' shapes, dtypes and contents."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(repr((array.shape, array.dtype.str)).encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def choose_balanced(labels: Indices, count: int, seed: int, purpose: str) -> Indices:
    """Returns sorted positions of `count` examples (int64 [count]), as evenly spread over the classes as possible.

    If `count` does not divide evenly, or a class has too few examples, other classes contribute one more each.
    `purpose` is the name of the limit in the `data` section. Raises SpecError for fewer than `count` examples.
    """
    if count > len(labels):
        raise SpecError(f"data.{purpose} is {count}, but there are only {len(labels)} examples.")
    order = numpy_rng(seed, purpose).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)  # number of examples of the same class earlier in `order`
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    return np.sort(order[np.argsort(rank[order], kind="stable")][:count])


def channel_statistics(dataset: Dataset) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns mean and standard deviation of each channel (float32 [channels]) of the images scaled to 0..1."""
    chunks = range(0, len(dataset), 64)  # bincount needs eight times the memory of the pixels it counts
    counts = [
        np.sum([np.bincount(dataset.images[start : start + 64, c].ravel(), minlength=256) for start in chunks], axis=0)
        for c in range(dataset.images.shape[1])
    ]
    levels = np.arange(256) / 255
    mean = np.array([levels @ n / n.sum() for n in counts])
    variance = np.array([levels**2 @ n / n.sum() for n in counts]) - mean**2
    return mean.astype(np.float32), np.sqrt(np.maximum(variance, 1e-12)).astype(np.float32)
