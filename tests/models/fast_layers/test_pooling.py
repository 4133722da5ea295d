"""`MaxPool2x2` and its gradient equal torch's bit for bit."""

import pytest
import torch
from torch import Tensor, nn

from fedray.models.cnn import SmallCNN
from fedray.models.fast_layers import use_fast_layers
from fedray.models.fast_layers.pooling import MaxPool2x2

CASES = {
    "even": (3, 5, 8, 12),
    "odd": (3, 5, 7, 8),
    "two rows": (1, 1, 2, 6),
    "many": (2, 32, 32, 32),
}


def forward_backward(layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's output, and the gradient of its input."""
    images = images.clone().requires_grad_()
    out = layer(images)
    out.backward(torch.arange(1.0, out.numel() + 1).reshape(out.shape).to(out.dtype))
    assert images.grad is not None
    return out.detach(), images.grad


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_equal_torchs(case: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """With values from -1, -0.5, 0, 0.5 and 1 only, so that there are many ties."""
    halves = torch.randint(-2, 3, CASES[case], generator=torch.Generator().manual_seed(0))
    images = (halves / 2).to(dtype).contiguous(memory_format=layout)
    results = (forward_backward(layer, images) for layer in (MaxPool2x2(2), nn.MaxPool2d(2)))
    assert all(map(torch.equal, *results))


def test_output_and_gradient_equal_those_computed_by_hand() -> None:
    images = torch.tensor([[1.0, 7, 2, 2], [3, 5, 2, 2]])[None, None]
    out, gradient = forward_backward(MaxPool2x2(2), images)
    assert out.tolist() == [[[[7, 2]]]]
    assert gradient.tolist() == [[[[0, 1, 2, 0], [0, 0, 0, 0]]]]


def test_gradient_goes_to_the_larger_of_two_tiny_values() -> None:
    tiny = torch.finfo(torch.float32).smallest_normal
    images = torch.tensor([[tiny, tiny * 1.0001], [0, 0]])[None, None]
    assert forward_backward(MaxPool2x2(2), images)[1].tolist() == [[[[0, 1], [0, 0]]]]


@pytest.mark.parametrize(
    "layer",
    [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, return_indices=True)],
    ids=["3x3", "overlapping", "ceil", "indices"],
)
def test_other_poolings_are_not_replaced(layer: nn.MaxPool2d) -> None:
    assert type(use_fast_layers(layer)) is nn.MaxPool2d
    assert type(use_fast_layers(nn.MaxPool2d((2, 2), (2, 2)))) is MaxPool2x2


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d])
def test_cnn_equals_the_papers_order_of_layers(norm: type[nn.BatchNorm2d] | None) -> None:
    """The paper applies convolution, normalisation, ReLU and then pooling; `SmallCNN` pools before ReLU."""
    torch.manual_seed(0)
    model = use_fast_layers(SmallCNN(3, 12, 10, norm))
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
