"""`FastConv2d` and `FastDepthwiseConv2d`, compared with torch's convolution."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedray.models import proxies
from fedray.models.fast_layers import torch_layers, use_fast_layers
from fedray.models.fast_layers.convolution import FastConv2d, FastDepthwiseConv2d
from fedray.models.flops import count_flops

ONE_PIXEL = {  # size of the image, kernel, stride, padding; the output is 1x1
    "centre of the kernel": (1, 3, 1, 1),
    "centre with a stride": (1, 3, 2, 1),
    "lower right of the kernel": (2, 3, 2, 1),
    "whole kernel": (3, 3, 1, 0),
    "1x1 kernel": (1, 1, 1, 0),
    "wide kernel": (2, 7, 4, 3),
    "stride along one axis": ((1, 2), (1, 3), (1, 2), (0, 1)),
}
MANY_PIXELS = {
    "2x2 output": (2, 3, 1, 1),
    "image larger than the kernel": (4, 3, 2, 0),
    "1x1 kernel on 2x2": (2, 1, 2, 0),
}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def layer(case: tuple[int | tuple[int, int], ...], groups: int, layout: torch.memory_format) -> nn.Conv2d:
    torch.manual_seed(0)
    _, kernel, stride, padding = case
    convolution = nn.Conv2d(6, 6 if groups > 1 else 4, kernel, stride, padding, groups=groups, dtype=torch.float64)  # type: ignore[arg-type]
    return convolution.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def images_of(size: int | tuple[int, int], layout: torch.memory_format) -> Tensor:
    size = size if isinstance(size, tuple) else (size, size)
    images = torch.randn(5, 6, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return images.contiguous(memory_format=layout)


def forward_backward(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input and of the parameters."""
    images = images.clone().requires_grad_()
    out = model(images)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape))
    gradients = [p.grad for p in (images, *model.parameters()) if p.grad is not None]
    return [out.detach(), *gradients]


def strides(tensor: Tensor) -> list[int]:
    """Strides of all axes that are longer than 1; the others are arbitrary."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("case", [*ONE_PIXEL, *MANY_PIXELS])
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_and_gradients_agree_with_torch(case: str, groups: int, layout: torch.memory_format) -> None:
    parameters = (ONE_PIXEL | MANY_PIXELS)[case]
    plain, images = layer(parameters, groups, layout), images_of(parameters[0], layout)
    fast = use_fast_layers(copy.deepcopy(plain))
    assert type(fast) is (FastConv2d if groups == 1 else FastDepthwiseConv2d)
    for actual, expected in zip(forward_backward(fast, images), forward_backward(plain, images), strict=True):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert strides(fast.weight.grad) == strides(fast.weight)


@pytest.mark.parametrize("case", ONE_PIXEL)
@pytest.mark.parametrize("groups", [1, 6])
def test_output_of_one_pixel_needs_no_convolution(case: str, groups: int) -> None:
    fast = use_fast_layers(layer(ONE_PIXEL[case], groups, LAYOUTS[0]))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fast(images_of(ONE_PIXEL[case][0], LAYOUTS[0]))
    assert not [event.key for event in profile.key_averages() if "conv" in event.key]


def test_output_and_gradient_equal_those_computed_by_hand() -> None:
    """Only the centre of the kernel overlaps a single pixel; the rest gets no gradient."""
    fast = use_fast_layers(nn.Conv2d(2, 1, 3, padding=1, bias=False))
    with torch.no_grad():
        fast.weight.copy_(torch.arange(18.0).reshape(1, 2, 3, 3))
    out, _, gradient = forward_backward(fast, torch.tensor([[[[2.0]], [[3.0]]]]))
    assert out.tolist() == [[[[2 * 4 + 3 * 13]]]]
    expected = torch.zeros(1, 2, 3, 3)
    expected[0, :, 1, 1] = torch.tensor([-2.0, -3.0])
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.LazyConv2d(4, 3),
    ],
    ids=["dilated", "reflecting", "two kernels per channel", "grouped", "lazy"],
)
def test_other_convolutions_are_not_replaced(convolution: nn.Conv2d) -> None:
    before = type(convolution)
    assert type(use_fast_layers(convolution)) is before


def test_input_is_accepted_and_rejected_as_by_torch() -> None:
    for groups in (1, 6):
        plain = layer((1, 3, 1, 1), groups, LAYOUTS[0])
        fast, image = use_fast_layers(copy.deepcopy(plain)), images_of(4, LAYOUTS[0])[0]
        assert torch.equal(fast(image), plain(image))
        with pytest.raises(RuntimeError, match="channels"):
            fast(torch.zeros(2, 1, 1, 1, dtype=torch.float64))


def test_torch_layers_count_flops_with_padding() -> None:
    """Per image 2 · 9 · (64 + 8) FLOPs with padding; the fast layers multiply a ninth of the weights."""
    model = use_fast_layers(
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    )
    images = torch.zeros(5, 8, 1, 1)
    with torch_layers(model):
        assert count_flops(lambda: model(images)) == 5 * 2 * 9 * (64 + 8)
    assert [type(module) for module in model] == [FastConv2d, FastDepthwiseConv2d]
    assert count_flops(lambda: model(images)) == 5 * 2 * 64


def test_padding_by_name_is_computed_by_torch() -> None:
    plain = nn.Conv2d(6, 4, 3, padding="same", dtype=torch.float64)
    images = images_of(1, LAYOUTS[0])
    assert torch.equal(use_fast_layers(copy.deepcopy(plain))(images), plain(images))


@pytest.mark.parametrize("name", ["cnn", "resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_model_keeps_its_names_outputs_and_gradients(name: str) -> None:
    """In float64, so that rounding errors are far below the tolerance."""
    torch.manual_seed(0)
    plain = proxies.build(proxies.Proxy(name=name), proxies.ImageShape(3, 32, 10)).double().train()
    for module in plain.modules():
        if isinstance(module, nn.Dropout) or "StochasticDepth" in type(module).__name__:
            module.p = 0.0
    fast = use_fast_layers(copy.deepcopy(plain))
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    assert list(fast.state_dict()) == list(plain.state_dict())
    for actual, expected in zip(forward_backward(fast, images), forward_backward(plain, images), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1, 4])
def test_depthwise_convolution_ignores_autocast_on_cpu(size: int) -> None:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    images = torch.randn(5, 6, size, size).bfloat16()
    expected = depthwise(images.float())
    with torch.autocast("cpu", torch.bfloat16):
        actual = use_fast_layers(depthwise)(images)
        ordinary = use_fast_layers(nn.Conv2d(6, 4, 3, padding=1))(images)
    assert actual.dtype == torch.float32
    assert ordinary.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected)


def test_bfloat16_output_agrees_to_two_digits() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(64, 32, 3, padding=1)
    images = torch.randn(20, 64, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        actual = use_fast_layers(copy.deepcopy(plain))(images)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), plain(images), rtol=0.02, atol=0.02)
