"""Server optimizers against their formulas, written out coordinate by coordinate."""

import math

import numpy as np
import pytest

from fedray.aggregation.server_optimizers import SERVER_OPTIMIZERS, AvgM, ServerOptimizer, ServerSGD
from fedray.types import ArrayGroups, Weights

RNG = np.random.default_rng(1)
START = RNG.normal(size=50).astype(np.float32)
TARGETS = [START + RNG.normal(scale=0.3, size=50) for _ in range(3)]
"""float64 targets of three rounds."""


def steps(optimizer: ServerOptimizer) -> list[float]:
    """The model after three rounds."""
    weights: Weights = {"w": START, "running_var": np.ones(2, np.float32), "count": np.array(3)}
    moments: ArrayGroups = {}
    for number, target in enumerate(TARGETS, start=1):
        buffers = {"running_var": np.full(2, number / 3), "count": np.array(number + 0.6)}
        weights, moments = optimizer.step(weights, {"w": target, **buffers}, moments, ["w"])
        assert weights["w"].dtype == np.float32
        assert weights["running_var"].tolist() == [np.float32(number / 3)] * 2  # buffers take the target's values
        assert weights["count"] == number + 1
    return list(weights["w"])


def by_hand(name: str, lr: float, beta1: float, beta2: float, tau: float) -> list[float]:
    """One coordinate after another in Python floats; the model is float32 between rounds."""
    results = []
    for i in range(50):
        w, m, v = float(START[i]), 0.0, 0.0
        for target in TARGETS:
            delta = float(target[i]) - w
            m = beta1 * m + (1 - beta1) * delta
            if name == "adagrad":
                v += delta**2
            elif name == "adam":
                v = beta2 * v + (1 - beta2) * delta**2
            else:
                v -= (1 - beta2) * delta**2 * math.copysign(1, v - delta**2)
            w = float(np.float32(w + lr * m / (math.sqrt(v) + tau)))
        results.append(w)
    return results


@pytest.mark.parametrize("name", ["adagrad", "adam", "yogi"])
def test_adaptive_optimizers_follow_their_formula(name: str) -> None:
    fields = {"lr": 0.2, "beta1": 0.8, "tau": 0.01} | ({} if name == "adagrad" else {"beta2": 0.9})
    optimizer = SERVER_OPTIMIZERS[name].model_validate(fields)
    assert steps(optimizer) == pytest.approx(by_hand(name, 0.2, 0.8, 0.9, 0.01), rel=1e-6)


@pytest.mark.parametrize("form", ["heavy_ball", "nesterov", "ema"])
def test_server_momentum_follows_the_formula_of_its_form(form: str) -> None:
    expected = []
    for i in range(50):
        w, v = float(START[i]), 0.0
        for target in TARGETS:
            delta = float(target[i]) - w
            v = 0.7 * v + (0.3 if form == "ema" else 1) * delta
            w = float(np.float32(w + 0.5 * (delta + 0.7 * v if form == "nesterov" else v)))
        expected.append(w)
    assert steps(AvgM(lr=0.5, momentum=0.7, form=form)) == pytest.approx(expected, rel=1e-6)


def test_the_three_forms_of_server_momentum_differ() -> None:
    results = [steps(AvgM(form=form)) for form in ("heavy_ball", "nesterov", "ema")]
    assert min(np.abs(np.subtract(a, b)).max() for a, b in ((results[0], results[1]), (results[1], results[2]))) > 0.1


def test_sgd_with_lr_one_is_the_target_to_the_bit() -> None:
    assert np.array_equal(np.float32(steps(ServerSGD())), TARGETS[-1].astype(np.float32))


def test_sgd_moves_by_its_learning_rate() -> None:
    expected = START.astype(np.float64)
    for target in TARGETS:
        expected = np.float32(expected + 0.25 * (target - expected)).astype(np.float64)
    assert steps(ServerSGD(lr=0.25)) == pytest.approx(expected, rel=1e-6)


def test_momentum_of_zero_is_sgd() -> None:
    for form in ("heavy_ball", "nesterov", "ema"):
        assert steps(AvgM(lr=0.5, momentum=0, form=form)) == pytest.approx(steps(ServerSGD(lr=0.5)), rel=1e-7)
