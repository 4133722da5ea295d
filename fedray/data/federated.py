"""All the data of one run: both sets, who holds which example, and how images are normalised."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.config.experiment import Experiment
from fedray.data import sources
from fedray.data.dataset import Dataset, balanced, channel_statistics
from fedray.data.partition import FromFile
from fedray.data.sections import Data
from fedray.errors import SpecError
from fedray.seeding import numpy_rng
from fedray.types import Indices

IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))


@dataclass(frozen=True)
class FederatedDataset:
    """Put once into each node's shared memory, and read there by every process."""

    train: Dataset
    test: Dataset
    shards: tuple[Indices, ...]  # of each client, sorted positions in `train`
    public: Indices  # positions in `train` that no client holds
    mean: npt.NDArray[np.float32]  # [channels]
    std: npt.NDArray[np.float32]  # [channels]

    def side(self, name: sources.Side) -> Dataset:
        """The training or the test set."""
        return self.train if name == "train" else self.test

    @cached_property
    def class_counts(self) -> Indices:
        """[clients, classes], how many examples of each class each client holds."""
        classes = len(self.train.classes)
        return np.stack([np.bincount(self.train.labels[shard], minlength=classes) for shard in self.shards])


ReadDatasets: TypeAlias = Callable[[Data, int], tuple[Dataset, Dataset]]


def read_datasets(spec: Data, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the test set; `seed` chooses what a limit leaves. Raises SpecError for what cannot be read."""
    return _read(spec, "train", seed), _read(spec, "test", seed)


def load(experiment: Experiment, read: ReadDatasets = read_datasets) -> FederatedDataset:
    """Read both sets and divide the training set. Raises SpecError for what cannot be read or divided."""
    spec, seed = experiment.data, experiment.seed
    train, test = read(spec, seed)
    if train.shape != test.shape:
        raise SpecError(f"data: train has {_shown(train)}, but test has {_shown(test)}.")
    if train.classes != test.classes and not (_numbered(train) or _numbered(test)):
        raise SpecError(
            f"data: train's classes are {', '.join(train.classes)}, but test's are {', '.join(test.classes)}."
        )
    public = balanced(train.labels, round(spec.public_fraction * len(train)), seed, "public_fraction")
    private = np.setdiff1d(np.arange(len(train)), public)
    shards = tuple(private[positions] for positions in _divide(experiment, train.take(private)))
    mean, std = IMAGENET if spec.normalize == "imagenet" else channel_statistics(train)
    if len(mean) != train.shape.channels:
        raise SpecError(f"data.normalize is 'imagenet', but the images have {train.shape.channels} channel, not 3.")
    return FederatedDataset(train, test, shards, public, mean, std)


def count_clients(experiment: Experiment) -> int:
    """How many clients there are, without reading the data. Raises SpecError for a table that cannot be read."""
    if not isinstance(experiment.partition, FromFile):
        return experiment.partition.clients
    table = read_table(experiment.partition.file, "partition.file")
    return 1 + int(max(table.get("client", [0])))


def _read(spec: Data, side: sources.Side, seed: int) -> Dataset:
    limit = spec.train_limit if side == "train" else spec.test_limit

    def choose(labels: Indices) -> Indices:
        return np.arange(len(labels)) if limit is None else balanced(labels, limit, seed, f"{side}_limit")

    data = sources.read(spec.train if side == "train" else spec.test, side, choose, spec.size)
    if data.labels.min() < 0 or data.labels.max() >= len(data.classes):
        raise SpecError(
            f"data.{side}: labels go from {data.labels.min()} to {data.labels.max()}, "
            f"but there are {len(data.classes)} classes."
        )
    return data


def _numbered(data: Dataset) -> bool:
    """Whether the source named no classes."""
    return all(name.isdigit() for name in data.classes)


def _shown(data: Dataset) -> str:
    shape = data.shape
    return f"{shape.classes} classes and {shape.channels}x{shape.size}x{shape.size} images"


def _divide(experiment: Experiment, data: Dataset) -> list[Indices]:
    partition = experiment.partition
    if isinstance(partition, FromFile):
        return _from_file(partition, data)
    if partition.clients > len(data):
        raise SpecError(f"partition.clients is {partition.clients}, but there are only {len(data)} training examples.")
    return partition.split(data.labels, numpy_rng(experiment.seed, "partition"))


def _from_file(spec: FromFile, data: Dataset) -> list[Indices]:
    table = read_table(spec.file, "partition.file")
    if "client" not in table or not ("path" in table or "index" in table):
        raise SpecError(
            f"partition.file: '{spec.file}' needs the columns client and path or index, it has {', '.join(table)}."
        )
    clients = np.asarray(table["client"])
    positions = locate(table, data, f"partition.file: '{spec.file}'")
    if not np.issubdtype(clients.dtype, np.integer) or clients.min() < 0:
        raise SpecError(f"partition.file: '{spec.file}' must number its clients 0, 1, 2 ...")
    if (positions < 0).any():
        raise SpecError(
            f"partition.file: '{spec.file}' lists {(positions < 0).sum()} examples that the clients' data lacks."
        )
    if len(np.unique(positions)) < len(positions):
        raise SpecError(f"partition.file: '{spec.file}' lists an example twice.")
    if not spec.partial and len(positions) < len(data):
        raise SpecError(
            f"partition.file: '{spec.file}' leaves out {len(data) - len(positions)} of {len(data)} examples; "
            "set partial: true if that is meant."
        )
    return [np.sort(positions[clients == client]) for client in range(int(clients.max()) + 1)]


def read_table(file: Path, field: str) -> dict[str, Any]:
    """The columns of a csv or parquet. Raises SpecError, naming `field`, where it cannot be read."""
    import pandas as pd

    path = file.expanduser()
    if not path.exists():
        raise SpecError(f"{field}: there is no file '{file}'.")
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's and pandas' own errors are ValueErrors
        raise SpecError(f"{field}: '{file}' cannot be read as a table ({error}).") from error
    if not len(frame):
        raise SpecError(f"{field}: '{file}' is empty.")
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def locate(table: dict[str, Any], data: Dataset, what: str) -> Indices:
    """Where in `data` each row of a table is, by its `path` or else its `index`; -1 where nowhere.

    `index` is the example's row in its source, before any limit.
    """
    if "path" in table:
        if data.paths is None:
            raise SpecError(f"{what} names examples by path, but {data.name} has no paths; use the column index.")
        if len(np.unique(data.paths)) < len(data):
            raise SpecError(
                f"{what} names examples by path, but images of {data.name} share a path; use the column index."
            )
        keys: npt.NDArray[Any] = data.paths
        wanted = np.asarray(table["path"], dtype=np.str_)
    else:
        keys, wanted = data.rows, np.asarray(table["index"])
        if not np.issubdtype(wanted.dtype, np.number):
            raise SpecError(f"{what} must have row numbers in its column index.")
    order = np.argsort(keys)
    slots = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    return np.where(keys[order[slots]] == wanted, order[slots], -1)
