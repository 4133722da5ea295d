"""Metrics of a round, of a global model and of one model per client, against hand-computed values and loops."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fedray.training.evaluation import EvalCounts
from fedray.training.metrics import ModelCounts, RoundMetrics


def metrics_of(
    labels: Sequence[int], predicted: Sequence[Sequence[int]], class_counts: Sequence[Sequence[int]], losses: float = 0
) -> RoundMetrics:
    """The metrics of models with these predictions, one of each client or a single one."""
    training = np.array(class_counts)
    truth, classes = np.array(labels), training.shape[1]
    evaluated = [EvalCounts(truth, np.array(each), classes, losses * (i + 1)) for i, each in enumerate(predicted)]
    clients = np.flatnonzero(training.sum(axis=1)).tolist()
    model = "client" if len(predicted) > 1 else "global"
    return RoundMetrics(
        model, [*map(ModelCounts.of, evaluated)], np.bincount(truth, minlength=classes), clients, training[clients]
    )


LABELS = np.repeat([0, 1, 2], 10)


def with_correct(*correct: int) -> np.ndarray:
    """Predictions of which this many of each class are correct."""
    right = np.concatenate([np.arange(10) < n for n in correct])
    return np.where(right, LABELS, (LABELS + 1) % 3)


def test_class_accuracy_is_nan_for_a_class_without_examples() -> None:
    accuracy = metrics_of([0, 0], [[0, 1]], [[1, 1]]).class_accuracy
    assert accuracy[0] == 0.5
    assert math.isnan(accuracy[1])


def test_rare_accuracy_equals_hand_computed_value() -> None:
    class_counts = [
        [96, 4, 0],  # rare: 1 and 2 -> (5 + 1) / 20
        [5, 95, 0],  # exactly 5 % is not rare; rare: 2 -> 1 / 10
        [40, 30, 30],  # none rare: not counted
        [0, 0, 0],  # no examples: not counted
    ]
    metrics = metrics_of(LABELS, [with_correct(9, 5, 1)], class_counts)
    assert metrics.rare_accuracy == pytest.approx((0.3 + 0.1) / 2)


def test_rare_accuracy_without_rare_classes_is_nan() -> None:
    assert math.isnan(metrics_of([0, 1], [[0, 1]], [[5, 5]]).rare_accuracy)


def test_client_accuracy_is_recall_weighted_by_label_shares() -> None:
    class_counts = [[10, 0, 0], [0, 3, 1], [0, 0, 0], [2, 2, 4]]
    metrics = metrics_of(LABELS, [with_correct(9, 5, 1)], class_counts)
    expected = [0.9, (3 * 0.5 + 0.1) / 4, (2 * 0.9 + 2 * 0.5 + 4 * 0.1) / 8]
    assert list(metrics.clients) == [0, 1, 3]
    assert metrics.client_accuracy.tolist() == pytest.approx(expected)
    fairness = metrics.fairness()
    assert fairness["client_accuracy"] == pytest.approx(sum(expected) / 3)
    assert fairness["client_accuracy_std"] == pytest.approx(np.std(expected))
    assert fairness["client_accuracy_worst_tenth"] == pytest.approx(min(expected))


def test_each_client_has_the_recall_of_its_own_model() -> None:
    predicted = [with_correct(10, 0, 5), with_correct(2, 8, 4)]
    metrics = metrics_of(LABELS, predicted, [[4, 0, 1], [0, 5, 5]], losses=3.0)
    assert metrics.client_accuracy.tolist() == pytest.approx([(4 * 1.0 + 0.5) / 5, (0.8 + 0.4) / 2])
    assert metrics.accuracy == pytest.approx((15 / 30 + 14 / 30) / 2)
    assert metrics.mean_loss == pytest.approx((3 / 30 + 6 / 30) / 2)
    assert metrics.class_accuracy.tolist() == pytest.approx([0.6, 0.4, 0.45])
    assert metrics.rare_accuracy == pytest.approx((0 + 0.2) / 2)  # class 1 of the first, class 0 of the second model
    confusion = {(row["class"], row["predicted_class"]): row["examples"] for row in metrics.confusion()}
    assert confusion == {(0, 0): 12, (0, 1): 8, (1, 1): 8, (1, 2): 12, (2, 2): 9, (2, 0): 11}


def test_classes_without_test_examples_are_left_out_of_a_client_s_accuracy() -> None:
    metrics = metrics_of([0, 0, 1, 1], [[0, 1, 1, 1]], [[1, 1, 8], [0, 0, 5]])
    first, second = metrics.client_accuracy.tolist()
    assert first == pytest.approx((0.5 + 1) / 2)
    assert math.isnan(second)
    assert metrics.fairness() == {
        "client_accuracy": first, "client_accuracy_std": 0, "client_accuracy_worst_tenth": first,
    }  # fmt: skip


@pytest.mark.parametrize(("clients", "worst"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (39, 3)])
def test_the_worst_tenth_is_rounded_down_and_at_least_one_client(clients: int, worst: int) -> None:
    rng = np.random.default_rng(clients)
    class_counts = rng.integers(1, 20, (clients, 3))
    predicted = [rng.integers(0, 3, 30) for _ in range(clients)]
    metrics = metrics_of(LABELS, predicted, class_counts.tolist())
    accuracies = []
    for counts, guesses in zip(class_counts, predicted, strict=True):
        hits = [np.mean(guesses[label == LABELS] == label) for label in range(3)]
        accuracies.append(sum(n * hit for n, hit in zip(counts, hits, strict=True)) / counts.sum())
    found = metrics.fairness()
    assert found["client_accuracy_worst_tenth"] == pytest.approx(np.mean(sorted(accuracies)[:worst]))
    assert found["client_accuracy_std"] == pytest.approx(np.std(accuracies), abs=1e-12)
    assert found["client_accuracy"] == pytest.approx(np.mean(accuracies))
