"""Metrics of several phases in one row."""

import pytest

from fedray.workers.client_phases import merge_metrics


def test_metrics_of_one_phase_are_unchanged() -> None:
    metrics = {"loss_kd": 0.1 + 0.2, "train_accuracy": 1 / 3}
    assert merge_metrics([(7, metrics)]) == metrics


def test_losses_are_means_over_examples_and_accuracy_is_that_of_the_last_phase() -> None:
    first = {"loss_cross_entropy": 3.0, "loss_kd": 0.5, "train_accuracy": 0.2}
    second = {"loss_cross_entropy": 1.0, "train_accuracy": 0.6}
    merged = merge_metrics([(10, first), (30, second)])
    assert merged == {"loss_cross_entropy": pytest.approx(1.5), "loss_kd": pytest.approx(0.5), "train_accuracy": 0.6}
