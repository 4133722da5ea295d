"""Simplified convolutions, beside torch's own."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedray.models import proxies
from fedray.models.fast_layers.convolution import FastConv2d, FastDepthwiseConv2d
from fedray.models.fast_layers.swap import use_fast_layers, with_torch_layers
from fedray.models.flops import count_flops

ONE_PLACE = {  # size of the image, kernel, stride, padding
    "the middle of a kernel": (1, 3, 1, 1),
    "with a stride": (1, 3, 2, 1),
    "the lower right of it": (2, 3, 2, 1),
    "all of it": (3, 3, 1, 0),
    "a pixel to itself": (1, 1, 1, 0),
    "a wide one": (2, 7, 4, 3),
    "a stride along one axis": ((1, 2), (1, 3), (1, 2), (0, 1)),
}
MANY_PLACES = {
    "several": (2, 3, 1, 1),
    "an image that looks out of the kernel": (4, 3, 2, 0),
    "a pixel of several": (2, 1, 2, 0),
}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def layer(case: tuple[int | tuple[int, int], ...], groups: int, layout: torch.memory_format) -> nn.Conv2d:
    torch.manual_seed(0)
    _, kernel, stride, padding = case
    convolution = nn.Conv2d(6, 6 if groups > 1 else 4, kernel, stride, padding, groups=groups, dtype=torch.float64)  # type: ignore[arg-type]
    return convolution.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def images_of(size: int | tuple[int, int], layout: torch.memory_format) -> Tensor:
    size = size if isinstance(size, tuple) else (size, size)
    drawn = torch.randn(5, 6, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return drawn.contiguous(memory_format=layout)


def passes(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What comes out, and the gradients of what went in and of the weights."""
    images = images.clone().requires_grad_()
    out = model(images)
    out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape))
    gradients = [p.grad for p in (images, *model.parameters()) if p.grad is not None]
    return [out.detach(), *gradients]


def strides(tensor: Tensor) -> list[int]:
    """Of the axes along which there is more than one number."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("case", [*ONE_PLACE, *MANY_PLACES])
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_torch_does_it(case: str, groups: int, layout: torch.memory_format) -> None:
    parts = (ONE_PLACE | MANY_PLACES)[case]
    plain, images = layer(parts, groups, layout), images_of(parts[0], layout)
    simple = use_fast_layers(copy.deepcopy(plain))
    assert type(simple) is (FastConv2d if groups == 1 else FastDepthwiseConv2d)
    for ours, theirs in zip(passes(simple, images), passes(plain, images), strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert strides(simple.weight.grad) == strides(simple.weight)


@pytest.mark.parametrize("case", ONE_PLACE)
@pytest.mark.parametrize("groups", [1, 6])
def test_one_place_needs_no_convolution(case: str, groups: int) -> None:
    """So that the cases above are those that they are called."""
    simple = use_fast_layers(layer(ONE_PLACE[case], groups, LAYOUTS[0]))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        simple(images_of(ONE_PLACE[case][0], LAYOUTS[0]))
    assert not [event.key for event in seen.key_averages() if "conv" in event.key]


def test_by_hand() -> None:
    """The middle of the kernel alone meets a single pixel; the rest gets no gradient."""
    simple = use_fast_layers(nn.Conv2d(2, 1, 3, padding=1, bias=False))
    with torch.no_grad():
        simple.weight.copy_(torch.arange(18.0).reshape(1, 2, 3, 3))
    out, _, gradient = passes(simple, torch.tensor([[[[2.0]], [[3.0]]]]))
    assert out.tolist() == [[[[2 * 4 + 3 * 13]]]]
    middle = torch.zeros(1, 2, 3, 3)
    middle[0, :, 1, 1] = torch.tensor([-2.0, -3.0])
    assert torch.equal(gradient, middle)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.LazyConv2d(4, 3),
    ],
    ids=["dilated", "reflecting", "two kernels a channel", "grouped", "another class"],
)
def test_others_are_left_as_they_are(other: nn.Conv2d) -> None:
    before = type(other)
    assert type(use_fast_layers(other)) is before


def test_what_torch_takes_or_refuses_so_do_they() -> None:
    for groups in (1, 6):
        plain = layer((1, 3, 1, 1), groups, LAYOUTS[0])
        simple, image = use_fast_layers(copy.deepcopy(plain)), images_of(4, LAYOUTS[0])[0]
        assert torch.equal(simple(image), plain(image))
        with pytest.raises(RuntimeError, match="channels"):
            simple(torch.zeros(2, 1, 1, 1, dtype=torch.float64))


def test_operations_may_be_counted_as_published() -> None:
    """Two for each of 64 x 9 weights and image, padding or not; what runs is a ninth of it, or no product at all."""
    model = use_fast_layers(
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    )
    images = torch.zeros(5, 8, 1, 1)
    with with_torch_layers(model):
        assert count_flops(lambda: model(images)) == 5 * 2 * 9 * (64 + 8)
    assert [type(part) for part in model] == [FastConv2d, FastDepthwiseConv2d]
    assert count_flops(lambda: model(images)) == 5 * 2 * 64


def test_padding_by_name_is_torchs() -> None:
    plain = nn.Conv2d(6, 4, 3, padding="same", dtype=torch.float64)
    images = images_of(1, LAYOUTS[0])
    assert torch.equal(use_fast_layers(copy.deepcopy(plain))(images), plain(images))


@pytest.mark.parametrize("name", ["cnn", "resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_a_model_stays_what_it_is(name: str) -> None:
    """Names, outputs and gradients, in float64, where rounding is out of sight."""
    torch.manual_seed(0)
    plain = proxies.build(proxies.Proxy(name=name), proxies.ImageShape(3, 32, 10)).double().train()
    for part in plain.modules():
        if isinstance(part, nn.Dropout) or "StochasticDepth" in type(part).__name__:
            part.p = 0.0
    simple = use_fast_layers(copy.deepcopy(plain))
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    assert list(simple.state_dict()) == list(plain.state_dict())
    for ours, theirs in zip(passes(simple, images), passes(plain, images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1, 4])
def test_depthwise_stays_in_float32(size: int) -> None:
    """On CPUs; its neighbours do what they are told."""
    torch.manual_seed(0)
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    images = torch.randn(5, 6, size, size).bfloat16()
    expected = depthwise(images.float())
    with torch.autocast("cpu", torch.bfloat16):
        ours = use_fast_layers(depthwise)(images)
        beside = use_fast_layers(nn.Conv2d(6, 4, 3, padding=1))(images)
    assert ours.dtype == torch.float32
    assert beside.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected)


def test_a_product_in_bfloat16_is_near() -> None:
    """To a part in 256 of each number and a few roundings more."""
    torch.manual_seed(0)
    plain = nn.Conv2d(64, 32, 3, padding=1)
    images = torch.randn(20, 64, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        ours = use_fast_layers(copy.deepcopy(plain))(images)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), plain(images), rtol=0.02, atol=0.02)
