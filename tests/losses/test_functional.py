"""Loss functions against values computed by hand and against second implementations in NumPy."""

import math

import numpy as np
import pytest
import torch
from oracles.losses import NUMPY_LOSSES, NumpyLoss, numpy_mse
from pydantic import TypeAdapter

from fedray.losses import functional
from fedray.losses.distillation import REQUIRED_OUTPUT, AnyDistillation, Distillation
from fedray.losses.terms import DISTILLATIONS, TERMS, LossInputs

NO_LABELS = torch.empty(0, dtype=torch.int64)
"""Labels for losses that do not use them."""


def test_cross_entropy_equals_hand_computed_value() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    # -ln(3/4) for label 1, -ln(1/2) for label 0
    expected = (-math.log(0.75) - math.log(0.5)) / 2
    assert functional.cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(expected, rel=1e-6)


def test_kd_equals_hand_computed_value() -> None:
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    # p = (3/4, 1/4), q = (1/2, 1/2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert functional.kd(student, teacher, NO_LABELS, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)


def test_kd_with_temperature_equals_hand_computed_value() -> None:
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))  # T = 2 gives the same p as before, and T² = 4
    assert functional.kd(student, teacher, NO_LABELS, temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_kd_is_the_batch_mean_and_zero_for_equal_logits() -> None:
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    rows = [functional.kd(student[i : i + 1], teacher[i : i + 1], NO_LABELS, temperature=3.0).item() for i in range(5)]
    assert functional.kd(student, teacher, NO_LABELS, temperature=3.0).item() == pytest.approx(sum(rows) / 5, rel=1e-5)
    assert functional.kd(teacher, teacher, NO_LABELS, temperature=3.0).item() == pytest.approx(0, abs=1e-6)


def test_kd_gradient_is_the_difference_of_probabilities() -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    functional.kd(student, teacher, NO_LABELS, temperature=2.0).backward()
    expected = 2.0 * (torch.softmax(student / 2, 1) - torch.softmax(teacher / 2, 1)) / 4  # T · (q - p) / B
    assert student.grad is not None
    assert torch.allclose(student.grad, expected.detach(), atol=1e-6)


def test_not_true_equals_hand_computed_value() -> None:
    teacher, student = torch.tensor([[9.0, 2 * math.log(3), 0.0]]), torch.tensor([[-5.0, 0.0, 0.0]])
    # without class 0 and at T = 2: p = (3/4, 1/4), q = (1/2, 1/2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = functional.not_true(student, teacher, torch.tensor([0]), temperature=2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_not_true_is_the_second_part_of_dkd() -> None:
    student, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    part = functional.dkd(student, teacher, labels, temperature=3.0, alpha=0.0, beta=2.0)
    assert 2 * functional.not_true(student, teacher, labels, temperature=3.0).item() == pytest.approx(part.item())


def test_not_true_has_no_gradient_for_the_true_class() -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    functional.not_true(student, teacher, torch.tensor([0, 1, 2, 0]), temperature=1.0).backward()
    assert student.grad is not None
    assert student.grad[range(4), [0, 1, 2, 0]].abs().max() == 0
    assert student.grad.abs().max() > 0


def test_contrastive_equals_hand_computed_value() -> None:
    z, z_global, z_previous = (torch.tensor([row]) for row in ([3.0, 4.0], [3.0, 0.0], [0.0, -2.0]))
    # cosines 0.6 and -0.8
    expected = -math.log(math.exp(0.6 / 0.5) / (math.exp(0.6 / 0.5) + math.exp(-0.8 / 0.5)))
    assert functional.contrastive(z, z_global, z_previous, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_contrastive_of_equal_models_is_log_2() -> None:
    z, other = torch.randn(5, 8), torch.randn(5, 8)
    assert functional.contrastive(z, other, other, 0.1).item() == pytest.approx(math.log(2), rel=1e-6)


def test_mutual_has_no_gradient_for_the_peer() -> None:
    student, peer = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    functional.mutual(student, peer).backward()
    assert student.grad is not None
    assert peer.grad is None


def test_proximal_equals_hand_computed_value() -> None:
    parameters = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)]
    reference = [torch.tensor([0.0, 0.0]), torch.tensor([[1.0]])]
    loss = functional.proximal(parameters, reference)
    loss.backward()
    assert loss.item() == 0.5 * (1 + 4 + 4)
    assert parameters[0].grad is not None
    assert parameters[0].grad.tolist() == [1.0, 2.0]  # w - w_t


# All distillation losses.

SPECS = [fields for fields, _ in NUMPY_LOSSES]
LOGIT_LOSSES = [fields for fields in SPECS if REQUIRED_OUTPUT[str(fields["name"])] == "logits"]
FEATURE_LOSSES = [fields for fields in SPECS if REQUIRED_OUTPUT[str(fields["name"])] == "features"]
ADAPTER: TypeAdapter[Distillation] = TypeAdapter(AnyDistillation)


def distil(
    fields: dict[str, object], s: torch.Tensor, t: torch.Tensor, y: torch.Tensor, temperature: float = 3.0
) -> torch.Tensor:
    spec = ADAPTER.validate_python(fields)
    return DISTILLATIONS[spec.name](s, t, y, temperature=temperature, **spec.options)


def draw(batch: int, classes: int = 6, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    s, t = (torch.from_numpy(rng.normal(scale=scale, size=(batch, classes))) for _ in range(2))
    return s, t, torch.from_numpy(rng.integers(0, classes, batch))


def test_every_distillation_is_compared_with_numpy() -> None:
    assert {str(fields["name"]) for fields in SPECS} == set(DISTILLATIONS)


@pytest.mark.parametrize(("fields", "numpy_loss"), NUMPY_LOSSES, ids=lambda v: getattr(v, "__name__", ""))
def test_agrees_with_numpy(fields: dict[str, object], numpy_loss: NumpyLoss) -> None:
    s, t, y = draw(16)
    assert distil(fields, s, t, y).item() == pytest.approx(numpy_loss(s.numpy(), t.numpy(), y.numpy()), rel=1e-6)


@pytest.mark.parametrize("fields", LOGIT_LOSSES, ids=str)
def test_logit_losses_ignore_a_shift_of_a_row(fields: dict[str, object]) -> None:
    s, t, y = draw(8)
    shifted = distil(fields, s + torch.arange(8)[:, None], t - 5 * torch.arange(8)[:, None], y)
    assert shifted.item() == pytest.approx(distil(fields, s, t, y).item(), rel=1e-9)


@pytest.mark.parametrize("fields", [f for f in SPECS if f["name"] not in ("rld", "feature_mse")], ids=str)
def test_loss_is_zero_if_proxy_and_teacher_agree(fields: dict[str, object]) -> None:
    _, t, y = draw(8)
    assert distil(fields, t, t, y).item() == pytest.approx(0, abs=1e-6)


def test_rld_is_zero_if_both_agree_with_the_labels() -> None:
    _, t, _ = draw(8)
    assert distil(SPECS[5], t, t, t.argmax(1)).item() == pytest.approx(0, abs=1e-9)


def test_rld_ignores_classes_ranked_above_the_true_one() -> None:
    s, t, _ = draw(8)
    worst = t.argmin(1)  # the teacher ranks every class above the true one, so only the confidence term remains
    confidence_only = {**SPECS[5], "beta": 0}
    assert distil(SPECS[5], s, t, worst).item() == pytest.approx(distil(confidence_only, s, t, worst).item())


@pytest.mark.parametrize("fields", SPECS, ids=str)
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("scale", [1e-3, 100.0], ids=["flat", "as large as CLIP's"])
def test_gradients_are_finite_for_extreme_batches(fields: dict[str, object], batch: int, scale: float) -> None:
    s, t, _ = (v.float() if v.is_floating_point() else v for v in draw(batch, scale=scale))
    s.requires_grad_()
    loss = distil(fields, s, t, torch.zeros(batch, dtype=torch.int64), temperature=1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()


def test_kd_at_a_high_temperature_is_half_the_mse() -> None:
    s, t, y = draw(8)
    assert distil({"name": "kd"}, s, t, y, temperature=1e4).item() == pytest.approx(
        numpy_mse(s.numpy(), t.numpy(), y.numpy()) / 2, rel=1e-3
    )


def test_ls_kd_ignores_the_scale_of_logits() -> None:
    s, t, y = draw(8)
    assert distil({"name": "ls_kd"}, s, 100 * t, y).item() == pytest.approx(
        distil({"name": "ls_kd"}, s, t, y).item(), rel=1e-5
    )


def test_function_matching_is_forward_kd_for_any_mixup() -> None:
    s, t, y = draw(8)
    forward = distil({"name": "kd", "direction": "forward"}, s, t, y)
    for mixup in (0, 0.2, 1):
        assert distil({"name": "function_matching", "mixup": mixup}, s, t, y).item() == forward.item()
    assert distil({"name": "kd", "direction": "reverse"}, s, t, y).item() != pytest.approx(forward.item())


# Feature losses: `s` are the proxy's projected features, `t` the teacher's features.


def draw_features(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [batch, 40] with a mean far from 0."""
    rng = np.random.default_rng(4)
    s, t = (torch.from_numpy(rng.normal(loc=2.0, scale=3.0, size=(batch, 40))) for _ in range(2))
    return s, t, torch.from_numpy(rng.integers(0, 6, batch))


def scaled(rows: torch.Tensor) -> torch.Tensor:
    """Rows multiplied by different positive numbers."""
    return rows * torch.from_numpy(np.random.default_rng(5).uniform(1e-3, 1e3, (len(rows), 1)))


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("fields", FEATURE_LOSSES, ids=str)
def test_feature_losses_agree_with_numpy(fields: dict[str, object], batch: int) -> None:
    s, t, y = draw_features(batch)
    numpy_loss = dict(zip(map(str, SPECS), (function for _, function in NUMPY_LOSSES), strict=True))[str(fields)]
    assert distil(fields, s, t, y).item() == pytest.approx(numpy_loss(s.numpy(), t.numpy(), y.numpy()), rel=1e-9)


@pytest.mark.parametrize("fields", FEATURE_LOSSES, ids=str)
def test_feature_losses_ignore_labels_and_temperature(fields: dict[str, object]) -> None:
    s, t, y = draw_features(8)
    one_class, cold = torch.zeros_like(y), distil(fields, s, t, y, temperature=0.1)
    assert distil(fields, s, t, one_class).item() == distil(fields, s, t, y).item() == cold.item()


def test_cosine_ignores_the_length_of_features() -> None:
    s, t, y = draw_features(8)
    expected = distil({"name": "cosine"}, s, t, y).item()
    assert distil({"name": "cosine"}, scaled(s), t, y).item() == pytest.approx(expected, rel=1e-9)
    assert distil({"name": "cosine"}, s, scaled(t), y).item() == pytest.approx(expected, rel=1e-9)
    assert distil({"name": "cosine"}, -s, t, y).item() == pytest.approx(2 - expected, rel=1e-9)


def test_feature_mse_ignores_only_the_length_of_teacher_features() -> None:
    s, t, y = draw_features(8)
    expected = distil({"name": "feature_mse"}, s, t, y).item()
    assert distil({"name": "feature_mse"}, s, scaled(t), y).item() == pytest.approx(expected, rel=1e-9)
    assert distil({"name": "feature_mse"}, 2 * s, t, y).item() != pytest.approx(expected, rel=0.1)


def test_feature_losses_are_zero_at_the_target() -> None:
    _, t, y = draw_features(8)
    target = t / t.square().mean(1, keepdim=True).sqrt()
    assert distil({"name": "feature_mse"}, target, t, y).item() == pytest.approx(0, abs=1e-12)
    assert distil({"name": "cosine"}, scaled(t), t, y).item() == pytest.approx(0, abs=1e-9)
    for fields in FEATURE_LOSSES:
        student = target.clone().requires_grad_()
        distil(fields, student, t, y).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert student.grad.abs().max() < 1e-9


@pytest.mark.parametrize("fields", SPECS, ids=str)
def test_only_the_student_gets_gradients(fields: dict[str, object]) -> None:
    s, t, y = draw_features(8)
    student, teacher = s.requires_grad_(), t.requires_grad_()
    term = TERMS[str(fields["name"])]
    targets = {"logits": teacher, "features": teacher}
    options = ADAPTER.validate_python(fields).options
    inputs = LossInputs("proxy", {"proxy": student}, y, targets, student, [], [])
    term(inputs, temperature=2.0, **options).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("fields", FEATURE_LOSSES, ids=str)
def test_features_of_length_zero_give_finite_losses_and_gradients(fields: dict[str, object]) -> None:
    s, t, y = draw_features(2)
    for student, teacher in ((0 * s, t), (s, 0 * t)):
        student.requires_grad_()
        loss = distil(fields, student, teacher, y)
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()
