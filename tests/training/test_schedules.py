"""The learning rate of each round, from formulas."""

import math
from typing import Any

import pytest

from fedray.training.sections import Training

LR, ROUNDS = 0.1, 10


def rates(**schedule: Any) -> list[float]:
    training = Training.model_validate({"rounds": ROUNDS, "optimizer": {"lr": LR}, "schedule": schedule})
    return [training.learning_rate(number) for number in range(1, ROUNDS + 1)]


def test_default_is_constant() -> None:
    assert rates(name="constant") == [LR] * ROUNDS
    assert Training().learning_rate(7) == 0.01


def test_step_multiplies_by_gamma() -> None:
    expected = [LR] * 3 + [LR / 2] * 3 + [LR / 4] * 3 + [LR / 8]
    assert rates(name="step", every=3, gamma=0.5) == pytest.approx(expected)


@pytest.mark.parametrize("final", [0.0, 0.2])
def test_cosine_falls_from_the_full_rate_towards_the_final_one(final: float) -> None:
    """Round r is step r - 1 of torch's CosineAnnealingLR with T_max = rounds."""
    values = rates(name="cosine", final=final)
    lowest = LR * final
    assert values == pytest.approx([lowest + (LR - lowest) * (1 + math.cos(math.pi * k / 10)) / 2 for k in range(10)])
    assert values[0] == LR
    assert values[5] == pytest.approx((LR + lowest) / 2)
    assert values[9] > lowest


def test_warm_up_rises_linearly_and_precedes_the_decay() -> None:
    rise = [LR / 4, LR / 2, 3 * LR / 4]
    assert rates(name="constant", warm_up=3) == pytest.approx([*rise, *[LR] * 7])
    assert rates(name="step", every=4, warm_up=3) == pytest.approx([*rise, *[LR] * 4, *[LR / 10] * 3])
    cosine = [LR * (1 + math.cos(math.pi * k / 7)) / 2 for k in range(7)]
    assert rates(name="cosine", warm_up=3) == pytest.approx([*rise, *cosine])
