"""Metrics of a round: of one global model, or of each client's own model, on the whole test set."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.training.evaluation import EvalCounts, confusion_rows
from fedray.types import Indices, Row

EvaluatedModel: TypeAlias = Literal["global", "client"]
"""The model whose accuracy is measured: the `global` one, or each `client`'s own."""

RARE_CLASS_SHARE = 0.05
"""A class is rare for a client if it makes up less than this share of the client's training examples."""

WORST_CLIENTS = 10
"""One in this many clients, at least one, is among the worst."""


@dataclass(frozen=True)
class ModelCounts:
    """Counts of one model's predictions for the test set or a part of it. Parts are combined with `+`."""

    correct: Indices  # [classes]
    loss: float  # summed cross-entropy, nats
    pairs: Counter[int]  # as EvalCounts.pairs

    @classmethod
    def of(cls, counts: EvalCounts) -> "ModelCounts":
        """Return the counts without the predictions."""
        return cls(counts.correct, counts.loss, counts.pairs)

    def __add__(self, other: "ModelCounts") -> "ModelCounts":
        return ModelCounts(self.correct + other.correct, self.loss + other.loss, self.pairs + other.pairs)


@dataclass(frozen=True)
class RoundMetrics:
    """The metrics of one model, the global one, or of one model per client."""

    model: EvaluatedModel
    counts: Sequence[ModelCounts]
    """One of the global model, or one of each client in `clients`."""
    examples: Indices
    """[classes], examples of the test set."""
    clients: Sequence[int]
    """The clients that hold examples, ascending."""
    class_counts: Indices
    """[clients, classes], training examples of these clients."""

    @cached_property
    def correct(self) -> Indices:
        """[1 or clients, classes], correctly predicted test examples."""
        return np.stack([counts.correct for counts in self.counts])

    @property
    def accuracy(self) -> float:
        """Share of the test examples that are predicted correctly; the mean over models."""
        return float(self.correct.sum() / (len(self.counts) * self.examples.sum()))

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy, nats; the mean over models."""
        return float(sum(counts.loss for counts in self.counts) / (len(self.counts) * int(self.examples.sum())))

    @property
    def class_accuracy(self) -> npt.NDArray[np.float64]:
        """[classes], accuracy by class, the mean over models; NaN for a class without test examples."""
        return _ratio(self.correct.sum(axis=0), len(self.counts) * self.examples)

    @property
    def rare_accuracy(self) -> float:
        """Accuracy on a client's rare classes, averaged over clients.

        A class of which the client has no example is rare too. Clients without rare classes do not count; NaN if no
        client has a rare class.
        """
        rare = self.class_counts / self.class_counts.sum(axis=1, keepdims=True) < RARE_CLASS_SHARE
        return _mean(_ratio((rare * self.correct).sum(axis=1), rare @ self.examples))

    @cached_property
    def client_accuracy(self) -> npt.NDArray[np.float64]:
        """[clients], accuracy on a test distribution with the client's label shares: Σ_c n_c r_c / Σ_c n_c.

        n_c is the client's number of training examples of class c, r_c the recall of the client's model. Classes
        without test examples are left out; NaN for a client that has no others.
        """
        recall = _ratio(self.correct, np.broadcast_to(self.examples, self.correct.shape))
        weights = self.class_counts * (self.examples > 0)
        return _ratio((weights * np.nan_to_num(recall)).sum(axis=1), weights.sum(axis=1))

    def fairness(self) -> Row:
        """Return the mean, the standard deviation and the mean of the worst tenth of `client_accuracy`.

        The deviation is over all clients (divided by n). The worst tenth are n / 10 clients, rounded down, at least 1.
        """
        known = np.sort(self.client_accuracy[~np.isnan(self.client_accuracy)])
        return {
            "client_accuracy": _mean(known),
            "client_accuracy_std": float(known.std()) if len(known) else float("nan"),
            "client_accuracy_worst_tenth": _mean(known[: max(1, len(known) // WORST_CLIENTS)]),
        }

    def confusion(self) -> Iterator[Row]:
        """Yield the non-zero entries of the confusion matrix, summed over models."""
        return confusion_rows(sum((counts.pairs for counts in self.counts), Counter()), len(self.examples))


def _ratio(numerators: npt.NDArray[np.generic], denominators: Indices) -> npt.NDArray[np.float64]:
    """Return the quotients, NaN for a denominator of 0."""
    undefined = np.full(numerators.shape, np.nan)
    return np.asarray(np.divide(numerators, denominators, out=undefined, where=denominators > 0))


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Return the mean without NaN; NaN if there is nothing else."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
