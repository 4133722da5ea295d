"""Aggregators: the section `aggregation` of a spec, and how the weights of a round's clients become one model."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedray.aggregation.exact_mean import Floats
from fedray.registry import Registry
from fedray.section import Section
from fedray.types import Indices, Weights


class Aggregator(Section):
    """A rule that combines the clients' weights.

    The default is the exact weighted mean, which needs only the sum of the weights. A rule with `needs_all` gets the
    weights of all clients in the order of their ids, a block of coordinates at a time.
    """

    label: ClassVar[str] = ""
    """Name in tables and figures; empty: the same as `name`."""
    needs_all: ClassVar[bool] = False
    """Whether the rule needs the weights of every client, not only their sum."""
    name: str = ""

    def problem(self, clients: int) -> str | None:  # noqa: ARG002
        """Return the reason why the rule cannot combine the weights of this number of clients, or None."""
        return None

    def prepare(self, weights: Weights, received: Weights, trained: Sequence[str]) -> Weights:  # noqa: ARG002
        """Return the weights that a client sends. Called on the client; `trained`: names of trained parameters."""
        return weights

    def select(self, squared_distances: Floats) -> Indices | None:  # noqa: ARG002
        """Return the ascending positions of the clients to combine. The default is None, for all of them.

        `squared_distances` [K, K]: between the trained parameters of the K clients.
        """
        return None

    @property
    def selects(self) -> bool:
        """Whether the rule combines the weights of some clients only."""
        return type(self).select is not Aggregator.select

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Combine rows [K, n], one per client, into [n]. `weights` [K] sum to 1. May overwrite `rows`."""
        raise NotImplementedError


class Mean(Aggregator):
    """The weighted mean, as in FedAvg. Its bits do not depend on the order of the clients."""

    label: ClassVar[str] = "mean"
    name: Literal["mean"] = "mean"


class NormClippedMean(Aggregator):
    """The weighted mean of updates y - x that are scaled down to a norm of at most `max_norm` (arXiv 1911.07963)."""

    label: ClassVar[str] = "norm-clipped mean"
    name: Literal["norm_clipped_mean"] = "norm_clipped_mean"
    max_norm: float = Field(1.0, gt=0)
    """Largest Euclidean norm of an update, over all trained parameters."""

    def prepare(self, weights: Weights, received: Weights, trained: Sequence[str]) -> Weights:
        """Scale the update of the trained parameters down to `max_norm`; buffers are sent as they are."""
        names = [name for name in trained if name in weights]
        updates = {name: weights[name].astype(np.float64) - received[name] for name in names}
        norm = float(np.sqrt(sum(np.square(update).sum() for update in updates.values())))
        if norm <= self.max_norm:
            return weights
        scale = self.max_norm / norm
        clipped = {
            name: (received[name] + scale * update).astype(weights[name].dtype) for name, update in updates.items()
        }
        return {**weights, **clipped}


class Median(Aggregator):
    """The median of each coordinate, in which all clients have equal weights (Yin et al., arXiv 1803.01498)."""

    label: ClassVar[str] = "median"
    needs_all: ClassVar[bool] = True
    name: Literal["median"] = "median"

    def reduce(self, rows: Floats, weights: Floats) -> Floats:  # noqa: ARG002
        """Return the median over the rows; for an even number of rows, the mean of the middle two."""
        return np.asarray(np.median(rows, axis=0, overwrite_input=True))


class TrimmedMean(Aggregator):
    """The mean of each coordinate without its largest and smallest values (Yin et al., arXiv 1803.01498)."""

    label: ClassVar[str] = "trimmed mean"
    needs_all: ClassVar[bool] = True
    name: Literal["trimmed_mean"] = "trimmed_mean"
    trim: float = Field(0.1, ge=0, lt=0.5)
    """Share of the clients whose values are dropped at each end of a coordinate, rounded down. All clients have equal
    weights."""

    def reduce(self, rows: Floats, weights: Floats) -> Floats:  # noqa: ARG002
        """Return the mean of each sorted column without its dropped ends."""
        cut = int(self.trim * len(rows) + 1e-9)
        rows.sort(axis=0)
        return np.asarray(rows[cut : len(rows) - cut].mean(axis=0))


class NearestClients(Aggregator):
    """The weighted mean of the `chosen` clients that are nearest to their neighbours (arXiv 1703.02757)."""

    needs_all: ClassVar[bool] = True
    byzantine: int = Field(1, ge=0)
    """Number f of Byzantine clients, which may send any weights. The score of one of K clients is the sum of the
    squared distances to its K - f - 2 nearest clients. The lowest score wins, and of equal scores the lowest id."""

    @property
    def chosen(self) -> int:
        """Number of clients that are combined."""
        return 1

    def problem(self, clients: int) -> str | None:
        """Krum needs at least 2f + 3 clients, and at least as many as it combines."""
        least = max(2 * self.byzantine + 3, self.chosen)
        if clients >= least:
            return None
        return f"{self.name} with byzantine {self.byzantine} needs at least {least} clients in a round, not {clients}"

    def select(self, squared_distances: Floats) -> Indices:
        """Return the clients with the lowest scores."""
        others = np.sort(squared_distances + np.diag(np.full(len(squared_distances), np.inf)), axis=1)
        scores = others[:, : len(others) - self.byzantine - 2].sum(axis=1)
        return np.sort(np.argsort(scores, kind="stable")[: self.chosen]).astype(np.int64)

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the weighted mean of the chosen clients."""
        rows *= weights[:, None]
        return np.asarray(rows.sum(axis=0))


class Krum(NearestClients):
    """The weights of the client that is nearest to its neighbours (Blanchard et al., arXiv 1703.02757)."""

    label: ClassVar[str] = "Krum"
    name: Literal["krum"] = "krum"


class MultiKrum(NearestClients):
    """The weighted mean of the `keep` clients with the lowest scores of Krum (arXiv 1703.02757)."""

    label: ClassVar[str] = "multi-Krum"
    name: Literal["multi_krum"] = "multi_krum"
    keep: int = Field(3, ge=1)
    """Number of clients whose weights are averaged. With strategy.weighting: uniform, the mean is the paper's."""

    @property
    def chosen(self) -> int:
        """The number `keep`."""
        return self.keep


AGGREGATORS: Registry[Aggregator] = Registry(
    Aggregator, "fedray.aggregators", (Mean, Median, TrimmedMean, Krum, MultiKrum, NormClippedMean)
)
"""The built-in aggregators by name, and those of other packages."""

AnyAggregator = Annotated[Aggregator, AGGREGATORS]
