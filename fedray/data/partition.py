"""How training examples are divided among clients: disjoint, exhaustive, seeded.

Each kind is a section of the spec that can split an array of labels. To add one: a class with a
`kind` and a `split`, and its name in `AnyPartition`.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedray.errors import SpecError
from fedray.section import Section
from fedray.types import Indices

TRIES = 1000
"""How often a random split is drawn anew before it is given up."""

Rng = np.random.Generator


class Partition(Section):
    """A way to divide examples. `clients` is how many clients there are."""

    kind: str
    clients: int = Field(10, ge=1)

    @abstractmethod
    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        """Sorted positions in `labels` (int64 [N]) for each client.

        Raises SpecError where the labels cannot be divided so.
        """


class IID(Partition):
    """Equal shares (to within one example) of shuffled examples."""

    kind: Literal["iid"] = "iid"

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        return _sorted(np.array_split(rng.permutation(len(labels)), self.clients))


class Dirichlet(Partition):
    """Each class is divided by p ~ Dir(α·1) over clients (NIID-Bench, arXiv 2102.02079).

    A client that holds N/K examples or more gets none of the classes that follow, and the whole
    split is drawn anew until every client has at least `min_examples`.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(0.5, ge=0.01, le=100)
    min_examples: int = Field(10, ge=0)

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        smallest = 0
        for _ in range(TRIES):
            shards = self._draw(labels, rng)
            smallest = min(map(len, shards))
            if smallest >= self.min_examples:
                return _sorted(shards)
        raise SpecError(
            f"partition: no Dirichlet split of {len(labels)} examples among {self.clients} clients with alpha "
            f"{self.alpha:g} gave each at least min_examples={self.min_examples} in {TRIES} draws (the smallest client "
            f"of the last had {smallest}); raise alpha, lower clients or min_examples, or use dirichlet_per_client."
        )

    def _draw(self, labels: Indices, rng: Rng) -> list[Indices]:
        shards: list[list[Indices]] = [[] for _ in range(self.clients)]
        sizes = np.zeros(self.clients, dtype=np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(self.clients, self.alpha)) * (sizes < len(labels) / self.clients)
            shares = _normalised(shares, fallback=sizes < len(labels) / self.clients)
            cuts = (np.cumsum(shares)[:-1] * len(members)).round().astype(np.int64)
            for client, part in enumerate(np.split(members, cuts)):
                shards[client].append(part)
                sizes[client] += len(part)
        return [np.concatenate(parts) for parts in shards]


class DirichletPerClient(Partition):
    """Equal sizes; each client draws its classes from q ~ Dir(α·1) (Hsu et al., arXiv 1909.06335).

    α is per class here: Hsu's α over a normalised prior is this α times the number of classes.
    A class that is used up is struck out and the rest renormalised.
    """

    kind: Literal["dirichlet_per_client"] = "dirichlet_per_client"
    alpha: float = Field(0.5, ge=0.01, le=100)

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        classes = np.unique(labels)
        pools = [rng.permutation(np.flatnonzero(labels == label)) for label in classes]
        sizes = [len(part) for part in np.array_split(labels, self.clients)]
        return _sorted([self._draw(pools, size, rng) for size in sizes])

    def _draw(self, pools: list[Indices], size: int, rng: Rng) -> Indices:
        prior = rng.dirichlet(np.full(len(pools), self.alpha))
        drawn: list[Indices] = [np.empty(0, dtype=np.int64)]
        while size > 0:
            left = np.array([len(pool) for pool in pools])
            counts = np.minimum(rng.multinomial(size, _normalised(prior * (left > 0), fallback=left)), left)
            for label, count in enumerate(counts):
                drawn.append(pools[label][:count])
                pools[label] = pools[label][count:]
            size -= int(counts.sum())
        return np.concatenate(drawn)


class ClassSplit(Partition):
    """`classes_per_client` classes for each client, each class shared equally by its holders.

    NIID-Bench's #C=k: the first class of client i is i modulo the number of classes, the others
    are random. Classes that are nobody's first class are handed out before any other.
    """

    kind: Literal["class_split"] = "class_split"
    classes_per_client: int = Field(2, ge=1)

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
        k = self.classes_per_client
        if k > classes:
            raise SpecError(f"partition.classes_per_client is {k}, but the training data has only {classes} classes.")
        if self.clients * k < classes:
            raise SpecError(
                f"partition: {self.clients} clients with {k} classes each cannot hold all {classes} classes; "
                f"raise clients or classes_per_client."
            )
        holders: list[list[int]] = [[] for _ in range(classes)]
        unheld = rng.permutation(np.arange(min(self.clients, classes), classes)).tolist()
        for client in range(self.clients):
            mine = [client % classes, *(unheld.pop() for _ in range(min(k - 1, len(unheld))))]
            others = np.setdiff1d(np.arange(classes), mine)
            for label in [*mine, *rng.permutation(others)[: k - len(mine)]]:
                holders[label].append(client)
        return holders


class Shards(Partition):
    """Examples sorted by label, cut into clients × s shards, s at random for each (McMahan)."""

    kind: Literal["shards"] = "shards"
    shards_per_client: int = Field(2, ge=1)

    def split(self, labels: Indices, rng: Rng) -> list[Indices]:
        total = self.clients * self.shards_per_client
        if total > len(labels):
            raise SpecError(
                f"partition: {self.clients} clients x {self.shards_per_client} shards are {total} shards, "
                f"but there are only {len(labels)} examples."
            )
        shuffled = rng.permutation(len(labels))
        shards = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], total)
        hands = rng.permutation(total).reshape(self.clients, self.shards_per_client)
        return _sorted([np.concatenate([shards[s] for s in hand]) for hand in hands])


class FromFile(Section):
    """A split that somebody else made: a csv or parquet with `client` and `path` or `index`.

    Clients are numbered 0 to K-1. Every training example is listed once, unless `partial` says
    that those not listed belong to nobody. Read by `data.federated`, which knows the paths.
    """

    kind: Literal["file"] = "file"
    file: Path
    partial: bool = False


AnyPartition = Annotated[
    IID | Dirichlet | DirichletPerClient | ClassSplit | Shards | FromFile, Field(discriminator="kind")
]


def _sorted(shards: list[Indices]) -> list[Indices]:
    return [np.sort(shard) for shard in shards]


def _normalised(shares: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Shares that add up to 1; where all are (or underflowed to) zero, `fallback` in their place."""
    chosen = shares if shares.sum() > 0 else fallback.astype(float)
    return np.asarray(chosen / chosen.sum())
