"""Objectives as weighted sums of loss terms."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from fedray.losses.distillation import REQUIRED_OUTPUT, AnyDistillation
from fedray.losses.terms import DISTILLATIONS, LossInputs, evaluate_objective
from fedray.types import LossTerm


def make_inputs(model: str = "proxy") -> LossInputs:
    logits = {"proxy": torch.zeros(1, 2, requires_grad=True), "private": torch.tensor([[math.log(3), 0.0]])}
    parameters = [torch.tensor([2.0], requires_grad=True)]
    projected = torch.tensor([[1.0, 1.0]], requires_grad=True)
    targets = {
        "logits": torch.tensor([[math.log(3), 0.0]], requires_grad=True),
        "features": torch.tensor([[0.0, 2.0]], requires_grad=True),
    }
    return LossInputs(model, logits, torch.tensor([0]), targets, projected, parameters, [torch.tensor([0.0])])


CE = math.log(2)
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([LossTerm("cross_entropy")], CE),
        ([LossTerm("cross_entropy", 0.25), LossTerm("kd", 0.75, {"temperature": 1.0})], 0.25 * CE + 0.75 * KL),
        ([LossTerm("cross_entropy"), LossTerm("proximal", 0.1)], CE + 0.1 * 0.5 * 4),
        ([LossTerm("cross_entropy", 0.5), LossTerm("mutual", 0.5)], 0.5 * CE + 0.5 * KL),
        ([LossTerm("cross_entropy", 0.5), LossTerm("cosine", 2.0)], 0.5 * CE + 2 * (1 - math.sqrt(0.5))),
        (
            [LossTerm("cross_entropy", 0.5), LossTerm("feature_mse", 3.0)],
            0.5 * CE + 3 * (1 + (math.sqrt(2) - 1) ** 2) / 2,
        ),
    ],
)
def test_objective_is_the_weighted_sum_of_its_terms(terms: list[LossTerm], expected: float) -> None:
    total, values = evaluate_objective(terms, make_inputs())
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert list(values) == [term.loss for term in terms]
    assert values["cross_entropy"].item() == pytest.approx(CE)
    assert not any(value.requires_grad for value in values.values())


def test_mutual_compares_each_model_with_the_other() -> None:
    _, values = evaluate_objective([LossTerm("mutual")], make_inputs("private"))
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)  # KL(proxy ‖ private)
    assert values["mutual"].item() == pytest.approx(reverse, rel=1e-6)


def test_every_distillation_has_a_section_and_a_function() -> None:
    assert DISTILLATIONS.keys() == REQUIRED_OUTPUT.keys()


@pytest.mark.parametrize("name", sorted(REQUIRED_OUTPUT))
def test_distillation_uses_one_output_kind_and_no_teacher_gradient(name: str) -> None:
    inputs, kind = make_inputs(), "logits" if REQUIRED_OUTPUT[name] == "logits" else "features"
    options = TypeAdapter(AnyDistillation).validate_python({"name": name}).options
    needed = replace(inputs, targets={kind: inputs.targets[kind]})
    total, _ = evaluate_objective([LossTerm(name, 1.0, {"temperature": 1.0, **options})], needed)
    total.backward()  # type: ignore[no-untyped-call]
    assert inputs.projected is not None
    assert (inputs.logits["proxy"].grad is not None) == (kind == "logits")
    assert (inputs.projected.grad is not None) == (kind == "features")
    assert all(output.grad is None for output in inputs.targets.values())
