"""Predictions on the test set, and how many of them are correct."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fedray.types import Indices, Range, Row

if TYPE_CHECKING:
    from torch import Tensor

EVAL_CHUNK_IMAGES = 1000
"""Images that are evaluated together; constant, so that sums of losses do not depend on the number of workers."""


def chunks(images: int) -> list[Range]:
    """Return the ranges of images that are evaluated together."""
    return [(start, min(start + EVAL_CHUNK_IMAGES, images)) for start in range(0, images, EVAL_CHUNK_IMAGES)]


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

    @cached_property
    def pairs(self) -> Counter[int]:
        """Number of examples of each pair of classes, true · classes + predicted."""
        pairs, counts = np.unique(self.labels * self.classes + self.predicted, return_counts=True)
        return Counter(dict(zip(pairs.tolist(), counts.tolist(), strict=True)))

    def confusion(self) -> Iterator[Row]:
        """Yield the non-zero entries of the confusion matrix, as `confusion_rows` does."""
        return confusion_rows(self.pairs, self.classes)

    @property
    def accuracy(self) -> float:
        """Share of all examples that are predicted correctly."""
        return float(self.correct.sum() / self.examples.sum())


def confusion_rows(pairs: Counter[int], classes: int) -> Iterator[Row]:
    """Yield the entries of a confusion matrix, given as `EvalCounts.pairs`: `class`, `predicted_class`, `examples`."""
    for pair, count in sorted(pairs.items()):
        yield {"class": pair // classes, "predicted_class": pair % classes, "examples": count}


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
