"""Halving, to the bits of torch's max_pool2d and its gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from fedray.models.cnn import SmallCNN
from fedray.models.fast_layers.pooling import MaxPool2x2

CASES = {
    "even": (3, 5, 8, 12),
    "odd": (3, 5, 7, 8),
    "two rows": (1, 1, 2, 6),
    "many": (2, 32, 32, 32),
}


def halved(halve: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, and the gradient of what went in."""
    images = images.clone().requires_grad_()
    out = halve(images)
    out.backward(torch.arange(1.0, out.numel() + 1).reshape(out.shape).to(out.dtype))
    assert images.grad is not None
    return out.detach(), images.grad


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_torch_does_it(case: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """Of -1, 0, 0.5 and 1 many are equal."""
    drawn = torch.randint(-2, 3, CASES[case], generator=torch.Generator().manual_seed(0))
    images = (drawn / 2).to(dtype).contiguous(memory_format=layout)
    for ours, theirs in zip(halved(MaxPool2x2(), images), halved(lambda x: max_pool2d(x, 2), images), strict=True):
        assert torch.equal(ours, theirs)


def test_by_hand() -> None:
    images = torch.tensor([[1.0, 7, 2, 2], [3, 5, 2, 2]])[None, None]
    out, gradient = halved(MaxPool2x2(), images)
    assert out.tolist() == [[[[7, 2]]]]
    assert gradient.tolist() == [[[[0, 1, 2, 0], [0, 0, 0, 0]]]]


def test_a_difference_of_the_smallest_numbers_counts() -> None:
    tiny = torch.finfo(torch.float32).smallest_normal
    images = torch.tensor([[tiny, tiny * 1.0001], [0, 0]])[None, None]
    assert halved(MaxPool2x2(), images)[1].tolist() == [[[[0, 1], [0, 0]]]]


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d])
def test_the_small_cnn_is_that_of_the_paper(norm: type[nn.BatchNorm2d] | None) -> None:
    """Convolution, normalisation, ReLU, pooling."""
    torch.manual_seed(0)
    model = SmallCNN(3, 12, 10, norm)
    layers = list(model.features)
    half = len(layers) // 2
    in_order = nn.Sequential(
        *[layer for block in (layers[:half], layers[half:]) for layer in (*block[:-2], nn.ReLU(), nn.MaxPool2d(2))]
    )
    images = torch.randn(4, 3, 12, 12)
    losses, gradients = [], []
    for features in (model.features, in_order):
        model.zero_grad()
        loss = model.classifier(features(images)).square().sum()
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert losses[0] == losses[1]
    assert all(map(torch.equal, *gradients))
    assert len(gradients[0]) == len(list(model.parameters()))
