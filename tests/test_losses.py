import math

import pytest
import torch

from fedray import losses


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    # -ln(3/4) for label 1, -ln(1/2) for label 0
    expected = (-math.log(0.75) - math.log(0.5)) / 2
    assert losses.cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(expected, rel=1e-6)


def test_kd_by_hand() -> None:
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    # p = (3/4, 1/4), q = (1/2, 1/2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert losses.kd(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_kd_with_temperature_by_hand() -> None:
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))  # T = 2 gives the p above, and T² = 4
    assert losses.kd(student, teacher, temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_kd_is_a_mean_over_the_batch_and_zero_for_equal_logits() -> None:
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    rows = [losses.kd(student[i : i + 1], teacher[i : i + 1], 3.0).item() for i in range(5)]
    assert losses.kd(student, teacher, 3.0).item() == pytest.approx(sum(rows) / 5, rel=1e-5)
    assert losses.kd(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_kd_gradient_is_softmax_difference_and_spares_the_teacher() -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    losses.kd(student, teacher, temperature=2.0).backward()
    expected = 2.0 * (torch.softmax(student / 2, 1) - torch.softmax(teacher / 2, 1)) / 4  # T · (q - p) / B
    assert student.grad is not None
    assert torch.allclose(student.grad, expected.detach(), atol=1e-6)
    assert teacher.grad is None


def test_proximal_by_hand() -> None:
    parameters = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)]
    anchors = [torch.tensor([0.0, 0.0]), torch.tensor([[1.0]])]
    loss = losses.proximal(parameters, anchors)
    loss.backward()
    assert loss.item() == 0.5 * (1 + 4 + 4)
    assert parameters[0].grad is not None
    assert parameters[0].grad.tolist() == [1.0, 2.0]  # w - w_t
