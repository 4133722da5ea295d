import math

import pytest
import torch

from fedray import objective
from fedray.objective import Step
from fedray.strategies.base import TAUGHT
from fedray.types import Term


def step(model: str = "proxy") -> Step:
    logits = {"proxy": torch.zeros(1, 2, requires_grad=True), "private": torch.tensor([[math.log(3), 0.0]])}
    own = [torch.tensor([2.0], requires_grad=True)]
    return Step(model, logits, torch.tensor([0]), torch.tensor([[math.log(3), 0.0]]), own, [torch.tensor([0.0])])


CE = math.log(2)
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([Term("cross_entropy")], CE),
        ([Term("cross_entropy", 0.25), Term("kd", 0.75, {"temperature": 1.0})], 0.25 * CE + 0.75 * KL),
        ([Term("cross_entropy"), Term("proximal", 0.1)], CE + 0.1 * 0.5 * 4),
        ([Term("cross_entropy", 0.5), Term("mutual", 0.5)], 0.5 * CE + 0.5 * KL),
    ],
)
def test_an_objective_is_the_weighted_sum_of_its_terms(terms: list[Term], expected: float) -> None:
    total, values = objective.evaluate(terms, step())
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert list(values) == [term.loss for term in terms]
    assert values["cross_entropy"].item() == pytest.approx(CE)
    assert not any(value.requires_grad for value in values.values())


def test_mutual_teaches_each_model_by_the_other() -> None:
    _, values = objective.evaluate([Term("mutual")], step("private"))
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)  # KL(proxy ‖ private)
    assert values["mutual"].item() == pytest.approx(reverse, rel=1e-6)


def test_taught_terms_are_the_distillations() -> None:
    assert objective.DISTILLATIONS.keys() == TAUGHT
