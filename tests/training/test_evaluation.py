"""Accuracies, loss and confusion matrix against values computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedray.training.evaluation import EvalCounts, count_predictions


class PixelsAsLogits(nn.Module):
    """Return the image's pixels as logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


LOGITS = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 2], [2, 0, 0]])
LABELS = torch.tensor([0, 1, 0, 2, 2])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_count_predictions_by_hand(batch_size: int) -> None:
    counts = count_predictions(PixelsAsLogits(), LOGITS.view(5, 3, 1, 1), LABELS, classes=4, batch_size=batch_size)
    assert counts.correct.tolist() == [1, 1, 1, 0]
    assert counts.examples.tolist() == [2, 1, 2, 0]
    assert counts.accuracy == 0.6
    correct, wrong = math.log(1 + 2 * math.exp(-2)), math.log(2 + math.exp(2))
    assert counts.loss == pytest.approx(3 * correct + 2 * wrong, rel=1e-6)


def test_eval_counts_add_up() -> None:
    whole = count_predictions(PixelsAsLogits(), LOGITS.view(5, 3, 1, 1), LABELS, 3, 10)
    parts = [
        count_predictions(PixelsAsLogits(), LOGITS[a:b].view(-1, 3, 1, 1), LABELS[a:b], 3, 10)
        for a, b in ((0, 2), (2, 5))
    ]
    assert (parts[0] + parts[1]).correct.tolist() == whole.correct.tolist()
    assert (parts[0] + parts[1]).loss == pytest.approx(whole.loss)


def test_confusion_equals_hand_computed_values() -> None:
    rows = EvalCounts(np.array([0, 2, 0, 2, 0]), np.array([0, 1, 0, 2, 1]), classes=3).confusion()
    assert [tuple(row.values()) for row in rows] == [(0, 0, 2), (0, 1, 1), (2, 1, 1), (2, 2, 1)]
