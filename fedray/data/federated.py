"""The data of one run: training and test set, each client's share, and normalisation."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.data import sources
from fedray.data.class_names import match_classes
from fedray.data.clients import number_clients
from fedray.data.dataset import Dataset, channel_statistics, choose_balanced, digest
from fedray.data.example_table import locate, read_table
from fedray.data.partition import AnyPartition, FromFile
from fedray.data.request import ReadRequest, Side
from fedray.data.sections import Data
from fedray.data.stamps import source_stamp
from fedray.errors import SpecError
from fedray.seeding import numpy_rng
from fedray.types import Indices

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class FederatedDataset:
    """The data of all clients; stored once in each node's shared memory and read by every process there."""

    train: Dataset
    test: Dataset
    shards: tuple[Indices, ...]
    """Sorted positions in `train`, by client"""
    public: Indices
    """Sorted positions in `train` that no client holds"""
    mean: npt.NDArray[np.float32]
    """[channels], of images scaled to 0..1"""
    std: npt.NDArray[np.float32]
    """[channels], of images scaled to 0..1"""
    client_labels: tuple[str, ...] = ()
    """The label of each client of the partition in its file; empty if clients have numbers only"""
    partition_shards: tuple[Indices, ...] = ()
    """The shards of the partition's clients, if `shards` has them all as one client's; otherwise empty"""

    def client_label(self, client: int) -> str:
        """Returns the label of a client in the partition file, or else its number."""
        return self.client_labels[client] if self.client_labels else str(client)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What `left_out` says of both sets."""
        return left_out(self.train, self.test)

    def side(self, name: Side) -> Dataset:
        """Returns the training or the test set."""
        return self.train if name == "train" else self.test

    @property
    def partition_digest(self) -> str:
        """SHA-256 of each client's positions and label, and of the public positions."""
        positions = digest(*(self.partition_shards or self.shards), self.public)
        return hashlib.sha256(repr((positions, self.client_labels)).encode()).hexdigest()

    @cached_property
    def class_counts(self) -> Indices:
        """[clients, classes], number of each client's examples by class."""
        return self._class_counts(self.shards)

    @cached_property
    def partition_counts(self) -> Indices:
        """[clients, classes], as `class_counts`, of the partition's clients, also if their examples are pooled."""
        return self._class_counts(self.partition_shards or self.shards)

    def pooled(self) -> "FederatedDataset":
        """Return the data with the examples of all clients as those of one client."""
        shards = (np.sort(np.concatenate(self.shards)),)
        return replace(self, shards=shards, partition_shards=self.shards)

    def _class_counts(self, shards: tuple[Indices, ...]) -> Indices:
        classes = len(self.train.classes)
        return np.stack([np.bincount(self.train.labels[shard], minlength=classes) for shard in shards])


ReadDatasets: TypeAlias = Callable[[Data, int], tuple[Dataset, Dataset]]
"""Reads training and test set of a `data` section and a seed, as `read_datasets` does."""


def read_datasets(spec: Data, seed: int) -> tuple[Dataset, Dataset]:
    """Read the training and the test set; `seed` selects which examples a limit keeps.

    Both have the classes of the training set. Raises SpecError if a source cannot be read, or if the test set has a
    class of its own.
    """
    values = {"image_column": spec.image_column, "label_column": spec.label_column}
    columns = [name for name, value in values.items() if value is not None]
    if columns and not any(str(source).startswith("parquet:") for source in (spec.train, spec.test)):
        raise SpecError(f"data.{columns[0]} is set, but neither data.train nor data.test is a parquet source.")
    train = _read(spec, "train", seed)
    with _warnings_of(train):
        test = _read(spec, "test", seed)
    with _warnings_of(train, test):
        return train, match_classes(train, test)


@contextmanager
def _warnings_of(*datasets: Dataset) -> Iterator[None]:
    """Adds the files that were left out of the data to a SpecError, whose cause they may be."""
    try:
        yield
    except SpecError as error:
        error.warnings = left_out(*datasets)
        raise


def left_out(*datasets: Dataset) -> tuple[str, ...]:
    """Returns a sentence on what was left out of the sources and on classes without a test image; empty without any."""
    clauses = dict.fromkeys(clause for data in datasets for clause in data.left_out)
    return (" ".join(f"{'; '.join(clauses)}.".split()),) if clauses else ()  # names may hold line breaks


def load(
    spec: Data, partition: AnyPartition, seed: int, read: ReadDatasets = read_datasets, *, pooled: bool = False
) -> FederatedDataset:
    """Read both sets and divide the training set among the clients. Raises SpecError if either fails.

    `pooled`: one client has the examples of all.
    """
    train, test = read(spec, seed)
    with _warnings_of(train, test):
        data = _divide_among_clients(spec, partition, seed, train, test)
    return data.pooled() if pooled else data


def _divide_among_clients(
    spec: Data, partition: AnyPartition, seed: int, train: Dataset, test: Dataset
) -> FederatedDataset:
    _check_compatible(train, test)
    public = choose_balanced(train.labels, round(spec.public_fraction * len(train)), seed, "public_fraction")
    private = np.setdiff1d(np.arange(len(train)), public)
    divided, labels = _divide(partition, train.take(private), seed)
    shards = tuple(private[positions] for positions in divided)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if spec.normalize == "imagenet" else channel_statistics(train)
    if len(mean) != train.shape.channels:
        raise SpecError(f"data.normalize is 'imagenet', but the images have {train.shape.channels} channel, not 3.")
    return FederatedDataset(train, test, shards, public, mean, std, labels)


def count_clients(partition: AnyPartition) -> int:
    """Returns the number of clients without reading the data. Raises SpecError for an unreadable partition file."""
    if not isinstance(partition, FromFile):
        return partition.clients
    table = read_table(partition.file, "partition.file")
    return len(number_clients(table["client"], f"partition.file: '{partition.file}'")[1]) if "client" in table else 1


def _read(spec: Data, side: Side, seed: int) -> Dataset:
    limit = spec.train_limit if side == "train" else spec.test_limit

    def choose(labels: Indices) -> Indices:
        return np.arange(len(labels)) if limit is None else choose_balanced(labels, limit, seed, f"{side}_limit")

    source = spec.train if side == "train" else spec.test
    return sources.read(source, side, choose, spec.size, spec.image_column, spec.label_column)


def source_stamps(spec: Data) -> dict[str, str]:
    """Return the present stamps of both sources by field, `data.train` and `data.test`."""
    columns = spec.image_column, spec.label_column
    sides: tuple[Side, Side] = ("train", "test")
    requests = [ReadRequest(side, lambda labels: labels, spec.size, *columns) for side in sides]
    sources_of = zip((spec.train, spec.test), requests, strict=True)
    return {each.field: source_stamp(source, each) if isinstance(source, str) else "" for source, each in sources_of}


def _check_compatible(train: Dataset, test: Dataset) -> None:
    if train.shape != test.shape:
        raise SpecError(f"data: train has {_describe(train)}, but test has {_describe(test)}.")


def _describe(data: Dataset) -> str:
    shape = data.shape
    return f"{shape.classes} classes and {shape.channels}x{shape.size}x{shape.size} images"


def _divide(partition: AnyPartition, data: Dataset, seed: int) -> tuple[list[Indices], tuple[str, ...]]:
    """Returns each client's positions in `data`, and the clients' labels if a file names them."""
    if isinstance(partition, FromFile):
        return _divide_by_file(partition, data)
    if partition.clients > len(data):
        raise SpecError(f"partition.clients is {partition.clients}, but there are only {len(data)} training examples.")
    return partition.split(data.labels, numpy_rng(seed, "partition")), ()


def _divide_by_file(spec: FromFile, data: Dataset) -> tuple[list[Indices], tuple[str, ...]]:
    source = f"partition.file: '{spec.file}'"
    table = read_table(spec.file, "partition.file")
    if "client" not in table or not ("path" in table or "index" in table):
        raise SpecError(f"{source} needs the column client, and path or index; it has {', '.join(table)}.")
    clients, labels = number_clients(table["client"], source)
    positions = locate(table, data, source)
    _check_listing(positions, data, source, partial=spec.partial)
    order = np.lexsort((positions, clients))
    return np.split(positions[order], np.cumsum(np.bincount(clients))[:-1]), labels


def _check_listing(positions: Indices, data: Dataset, source: str, *, partial: bool) -> None:
    """Raises SpecError unless `positions` lists each example once, or at most once if `partial`."""
    if absent := np.count_nonzero(positions < 0):
        raise SpecError(f"{source} lists {absent} examples that are not in the clients' data.")
    if len(np.unique(positions)) < len(positions):
        raise SpecError(f"{source} lists an example twice.")
    if not partial and len(positions) < len(data):
        raise SpecError(
            f"{source} leaves out {len(data) - len(positions)} of {len(data)} examples; "
            "set partial: true to allow that."
        )
