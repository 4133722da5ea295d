"""Metrics of a round, computed from predictions on the test set."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedray.types import Indices, Row

if TYPE_CHECKING:
    from torch import Tensor

RARE_CLASS_SHARE = 0.05
"""A class is rare for a client if it makes up less than this share of the client's training examples."""


@dataclass(frozen=True)
class EvalCounts:
    """Labels, predictions and loss on a part of the test set. Parts are combined with `+`."""

    labels: Indices  # [N], the true classes
    predicted: Indices  # [N]
    classes: int
    loss: float = 0.0  # summed cross-entropy, nats

    def __add__(self, other: "EvalCounts") -> "EvalCounts":
        labels, predicted = (self.labels, other.labels), (self.predicted, other.predicted)
        return EvalCounts(np.concatenate(labels), np.concatenate(predicted), self.classes, self.loss + other.loss)

    @cached_property
    def correct(self) -> Indices:
        """[classes], correctly predicted examples per class."""
        return np.bincount(self.labels[self.labels == self.predicted], minlength=self.classes)

    @cached_property
    def examples(self) -> Indices:
        """[classes], examples per class."""
        return np.bincount(self.labels, minlength=self.classes)

    def confusion(self) -> Iterator[Row]:
        """Yield the non-zero entries of the confusion matrix as rows `class`, `predicted_class`, `examples`."""
        pairs, counts = np.unique(self.labels * self.classes + self.predicted, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            yield {"class": pair // self.classes, "predicted_class": pair % self.classes, "examples": count}

    @property
    def accuracy(self) -> float:
        """Share of all examples that are predicted correctly."""
        return float(self.correct.sum() / self.examples.sum())

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy, nats."""
        return self.loss / int(self.examples.sum())

    @property
    def class_accuracy(self) -> npt.NDArray[np.float64]:
        """[classes], accuracy per class; NaN for a class without test examples."""
        empty = np.full(len(self.correct), np.nan)
        return np.asarray(np.divide(self.correct, self.examples, out=empty, where=self.examples > 0))

    def rare_accuracy(self, class_counts: Indices) -> float:
        """Return the accuracy on a client's rare classes, averaged over clients.

        `class_counts` [clients, classes] holds each client's training examples per class. A class without any
        example is rare too. Clients without rare classes do not count; NaN if no client has a rare class.
        """
        shares = class_counts / np.maximum(class_counts.sum(axis=1, keepdims=True), 1)
        rare = (shares < RARE_CLASS_SHARE) & (class_counts.sum(axis=1, keepdims=True) > 0)
        examples = rare @ self.examples
        with_rare = examples > 0
        if not with_rare.any():
            return float("nan")
        return float(((rare @ self.correct)[with_rare] / examples[with_rare]).mean())


def count_predictions(
    predict: "Callable[[Tensor], Tensor]", images: "Tensor", labels: "Tensor", classes: int, batch_size: int
) -> EvalCounts:
    """Evaluate `predict`, which returns logits [B, classes], on images [N, ...] and labels int64 [N]."""
    import torch

    predicted, loss = torch.empty_like(labels), torch.zeros((), dtype=torch.float64, device=labels.device)
    with torch.inference_mode():
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            logits = predict(images[part])
            predicted[part] = logits.argmax(1)
            loss += torch.nn.functional.cross_entropy(logits.double(), labels[part], reduction="sum")
    return EvalCounts(labels.cpu().numpy(), predicted.cpu().numpy(), classes, float(loss))
