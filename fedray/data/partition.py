"""Partitions of the training examples among clients: disjoint, exhaustive, seeded.

Each kind is a section of the spec that splits an array of labels. To add a kind, write a class with a
`kind` and a `split` method and add it to `PARTITIONS`.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedray.errors import SpecError
from fedray.registry import Registry
from fedray.section import Section
from fedray.types import Indices

MAX_DRAWS = 1000
"""Number of random splits to draw before `Dirichlet.split` fails."""

Rng = np.random.Generator


class Partition(Section):
    """A rule that divides examples among clients."""

    kind: str = ""
    clients: int = Field(10, ge=1)
    """Number of clients."""

    @abstractmethod
    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        """Returns each client's sorted positions in `labels` (int64 [N]).

        Raises SpecError if the labels cannot be divided by this rule.
        """


class IID(Partition):
    """Equal shares of shuffled examples; sizes differ by at most one."""

    kind: Literal["iid"] = "iid"

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        return _sorted(np.array_split(rng.permutation(len(labels)), self.clients))


class Dirichlet(Partition):
    """Divides each class by p ~ Dir(α·1) over clients (NIID-Bench, arXiv 2102.02079).

    A client that holds N/K examples or more gets none of the following classes. The whole split is
    redrawn until every client has at least `min_examples`.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(0.5, ge=0.01, le=100)
    """Concentration α; smaller values give more skewed clients."""
    min_examples: int = Field(10, ge=0)
    """Number of examples that every client must have."""

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        smallest = 0
        for _ in range(MAX_DRAWS):
            shards = self._draw(labels, rng)
            smallest = min(map(len, shards))
            if smallest >= self.min_examples:
                return _sorted(shards)
        raise SpecError(
            f"partition: no Dirichlet split of {len(labels)} examples among {self.clients} clients with alpha "
            f"{self.alpha:g} gave every client at least min_examples={self.min_examples} in {MAX_DRAWS} draws (the "
            f"smallest client of the last draw had {smallest}); raise alpha, lower clients or min_examples, or use "
            "dirichlet_per_client."
        )

    def _draw(self, labels: Indices, rng: Rng) -> list[Indices]:
        shards: list[list[Indices]] = [[] for _ in range(self.clients)]
        sizes = np.zeros(self.clients, dtype=np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(self.clients, self.alpha)) * (sizes < len(labels) / self.clients)
            shares = _normalize(shares, fallback=sizes < len(labels) / self.clients)
            cuts = (np.cumsum(shares)[:-1] * len(members)).round().astype(np.int64)
            for client, part in enumerate(np.split(members, cuts)):
                shards[client].append(part)
                sizes[client] += len(part)
        return [np.concatenate(parts) for parts in shards]


class DirichletPerClient(Partition):
    """Equal sizes; each client draws its classes from q ~ Dir(α·1) (Hsu et al., arXiv 1909.06335).

    α is per class: Hsu's α over a normalised prior is this α times the number of classes.
    When a class runs out, its share is set to 0 and the others are renormalised.
    """

    kind: Literal["dirichlet_per_client"] = "dirichlet_per_client"
    alpha: float = Field(0.5, ge=0.01, le=100)
    """Concentration α per class; smaller values give more skewed clients."""

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        classes = np.unique(labels)
        pools = [rng.permutation(np.flatnonzero(labels == label)) for label in classes]
        sizes = [len(part) for part in np.array_split(labels, self.clients)]
        return _sorted([self._draw(pools, size, rng) for size in sizes])

    def _draw(self, pools: list[Indices], size: int, rng: Rng) -> Indices:
        prior = rng.dirichlet(np.full(len(pools), self.alpha))
        drawn: list[Indices] = [np.empty(0, dtype=np.int64)]
        while size > 0:
            remaining = np.array([len(pool) for pool in pools])
            shares = _normalize(prior * (remaining > 0), fallback=remaining)
            counts = np.minimum(rng.multinomial(size, shares), remaining)
            for label, count in enumerate(counts):
                drawn.append(pools[label][:count])
                pools[label] = pools[label][count:]
            size -= int(counts.sum())
        return np.concatenate(drawn)


class ClassSplit(Partition):
    """Gives each client `classes_per_client` classes; the clients of a class share it equally.

    NIID-Bench's #C=k: the first class of client i is i modulo the number of classes, the others
    are random. Classes that are no client's first class are assigned before any other.
    """

    kind: Literal["class_split"] = "class_split"
    classes_per_client: int = Field(2, ge=1)
    """Number of classes of each client."""

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        classes = np.unique(labels)
        holders = self._holders(len(classes), rng)
        shards: list[list[Indices]] = [[np.empty(0, dtype=np.int64)] for _ in range(self.clients)]
        for label, clients in zip(classes, holders, strict=True):
            members = rng.permutation(np.flatnonzero(labels == label))
            for client, part in zip(clients, np.array_split(members, len(clients)), strict=True):
                shards[client].append(part)
        return _sorted([np.concatenate(parts) for parts in shards])

    def _holders(self, classes: int, rng: Rng) -> list[list[int]]:
        """Returns the clients of each class."""
        k = self.classes_per_client
        if k > classes:
            raise SpecError(f"partition.classes_per_client is {k}, but the training data has only {classes} classes.")
        if self.clients * k < classes:
            raise SpecError(
                f"partition: {self.clients} clients with {k} classes each cannot hold all {classes} classes; "
                f"raise clients or classes_per_client."
            )
        holders: list[list[int]] = [[] for _ in range(classes)]
        unassigned = rng.permutation(np.arange(min(self.clients, classes), classes)).tolist()
        for client in range(self.clients):
            own_classes = [client % classes, *(unassigned.pop() for _ in range(min(k - 1, len(unassigned))))]
            others = np.setdiff1d(np.arange(classes), own_classes)
            for label in [*own_classes, *rng.permutation(others)[: k - len(own_classes)]]:
                holders[label].append(client)
        return holders


class Shards(Partition):
    """Sorts examples by label, cuts them into equal shards and deals these to clients (arXiv 1602.05629)."""

    kind: Literal["shards"] = "shards"
    shards_per_client: int = Field(2, ge=1)
    """Number of shards of each client."""

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        total = self.clients * self.shards_per_client
        if total > len(labels):
            raise SpecError(
                f"partition: {self.clients} clients x {self.shards_per_client} shards are {total} shards, "
                f"but there are only {len(labels)} examples."
            )
        shuffled = rng.permutation(len(labels))
        shards = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], total)
        assignment = rng.permutation(total).reshape(self.clients, self.shards_per_client)
        return _sorted([np.concatenate([shards[number] for number in numbers]) for numbers in assignment])


class FromFile(Section):
    """A given partition: a CSV or parquet file with the column `client`, and `path` or `index`.

    A client's label is a whole number or text, such as a user's name; clients are numbered in the order of their
    labels. The file lists every training example once. `data.federated` reads it, because locating a path needs the
    data set.
    """

    kind: Literal["file"] = "file"
    file: Path
    """Path of the CSV or parquet file."""
    partial: bool = False
    """Whether the file may leave out training examples; no client holds these."""


PARTITIONS: Registry[Partition | FromFile] = Registry(
    Partition, "fedray.partitions", (IID, Dirichlet, DirichletPerClient, ClassSplit, Shards, FromFile), chooser="kind"
)
"""The built-in partitions by kind, and those of other packages."""

AnyPartition = Annotated[Partition | FromFile, PARTITIONS]


def _sorted(shards: list[Indices]) -> list[Indices]:
    return [np.sort(shard) for shard in shards]


def _normalize(shares: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Scale shares to sum to 1; if all are zero (or underflowed), scale `fallback` instead."""
    positive = shares if shares.sum() > 0 else fallback.astype(float)
    return np.asarray(positive / positive.sum())
