"""From predictions on the test set to the figures of a round."""

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
"""A class is rare for a client where it makes up less than this share of the client's examples."""


@dataclass(frozen=True)
class EvalCounts:
    """What was predicted. Adds up over parts of the test set."""

    labels: Indices  # [N], the true classes
    predicted: Indices  # [N]
    classes: int
    loss: float = 0.0  # summed cross-entropy, nats

    def __add__(self, other: "EvalCounts") -> "EvalCounts":
        labels, predicted = (self.labels, other.labels), (self.predicted, other.predicted)
        return EvalCounts(np.concatenate(labels), np.concatenate(predicted), self.classes, self.loss + other.loss)

    @cached_property
    def right(self) -> Indices:
        """[classes], examples of each class predicted rightly."""
        return np.bincount(self.labels[self.labels == self.predicted], minlength=self.classes)

    @cached_property
    def examples(self) -> Indices:
        """[classes]"""
        return np.bincount(self.labels, minlength=self.classes)

    def confusion(self) -> Iterator[Row]:
        """How many examples of each class were taken for which: a row for each pair that occurs."""
        pairs, counts = np.unique(self.labels * self.classes + self.predicted, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            yield {"class": pair // self.classes, "predicted_class": pair % self.classes, "examples": count}

    @property
    def accuracy(self) -> float:
        """The share of all examples that is right."""
        return float(self.right.sum() / self.examples.sum())

    @property
    def mean_loss(self) -> float:
        return self.loss / int(self.examples.sum())

    @property
    def class_accuracy(self) -> npt.NDArray[np.float64]:
        """[classes]; NaN for a class the test set lacks."""
        empty = np.full(len(self.right), np.nan)
        return np.asarray(np.divide(self.right, self.examples, out=empty, where=self.examples > 0))

    def rare_accuracy(self, class_counts: Indices) -> float:
        """The accuracy on the classes rare for a client, averaged over clients.

        `class_counts` [clients, classes] counts each client's training examples. A class that a client
        does not hold at all is rare for it. Clients without a rare class are left out, and NaN
        stands where that leaves none.
        """
        shares = class_counts / np.maximum(class_counts.sum(axis=1, keepdims=True), 1)
        rare = (shares < RARE_CLASS_SHARE) & (class_counts.sum(axis=1, keepdims=True) > 0)
        examples = rare @ self.examples
        with_rare = examples > 0
        if not with_rare.any():
            return float("nan")
        return float(((rare @ self.right)[with_rare] / examples[with_rare]).mean())


def count_predictions(
    predict: "Callable[[Tensor], Tensor]", images: "Tensor", labels: "Tensor", classes: int, batch_size: int
) -> EvalCounts:
    """Count what `predict` makes of images [N, ...] and labels int64 [N]; it gives logits [B, classes]."""
    import torch

    predicted, loss = torch.empty_like(labels), torch.zeros((), dtype=torch.float64, device=labels.device)
    with torch.inference_mode():
        for start in range(0, len(labels), batch_size):
            part = slice(start, start + batch_size)
            logits = predict(images[part])
            predicted[part] = logits.argmax(1)
            loss += torch.nn.functional.cross_entropy(logits.double(), labels[part], reduction="sum")
    return EvalCounts(labels.cpu().numpy(), predicted.cpu().numpy(), classes, float(loss))
