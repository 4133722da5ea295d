"""Finding a classifier's head, splitting it off, and keeping its logits in float32."""

import copy

import pytest
import torch
from torch import nn

from fedray.errors import SpecError
from fedray.models.heads import Float32Linear, head_name, keep_head_float32, split_head
from fedray.models.proxies import Proxy, build
from fedray.types import ImageShape

COLOUR = ImageShape(channels=3, size=32, classes=7)
HEADS = {
    "cnn": ("classifier.3", 512),
    "resnet18": ("fc", 512),
    "mobilenet_v2": ("classifier.1", 1280),
    "efficientnet_b0": ("classifier.1", 1280),
    "timm:mobilenetv3_small_050": ("classifier", 1024),
}


@pytest.mark.parametrize("name", HEADS)
def test_split_head_of_the_features_gives_the_logits(name: str) -> None:
    model = build(Proxy(name=name), COLOUR).eval()
    whole, images = copy.deepcopy(model), torch.rand(2, 3, 32, 32)
    expected_name, width = HEADS[name]
    assert head_name(model, 7) == expected_name
    backbone, head = split_head(model, 7)
    with torch.no_grad():
        features, logits = backbone(images), whole(images)
        assert features.shape == (2, width)
        assert torch.equal(head(features), logits)


def test_head_is_the_last_layer_with_as_many_outputs() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU())
    assert head_name(model, 3) == "2"


def test_model_without_a_linear_head_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^Sequential has no linear layer with 5 outputs to use as its head"):
        head_name(nn.Sequential(nn.Linear(4, 3)), 5)


@pytest.mark.parametrize("name", HEADS)
def test_float32_head_gives_float32_logits_under_autocast(name: str) -> None:
    """Only the head is replaced."""
    torch.manual_seed(0)
    model = keep_head_float32(build(Proxy(name=name), COLOUR), 7).eval()
    assert [n for n, layer in model.named_modules() if isinstance(layer, Float32Linear)] == [HEADS[name][0]]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.rand(2, 3, 32, 32))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_float32_head_distinguishes_close_logits() -> None:
    """1 and 1.001 are equal in bfloat16, so that argmax would return class 0."""
    head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [1.001]]))
    features = torch.ones(1, 1, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(features).argmax() == 0
        assert keep_head_float32(head, 2)(features).argmax() == 1


def test_model_without_a_linear_head_is_left_unchanged() -> None:
    model = nn.Sequential(nn.Conv2d(3, 7, 1), nn.Flatten())
    assert keep_head_float32(model, 7) is model
