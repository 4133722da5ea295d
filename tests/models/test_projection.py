"""Projected features against the penultimate layer, computed separately for each kind of model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedray.errors import SpecError
from fedray.models.heads import head_name
from fedray.models.projection import Projected
from fedray.models.proxies import Proxy, build
from fedray.models.weights import get_weights
from fedray.types import ImageShape

CLASSES = 7
SHAPE = ImageShape(channels=3, size=32, classes=CLASSES)


def features_of_cnn(model: Any, images: Tensor) -> Tensor:
    flat = model.features(images).flatten(1)
    hidden: Tensor = flat @ model.classifier[1].weight.T + model.classifier[1].bias
    return hidden.clamp(min=0)


def features_of_mobilenet(model: Any, images: Tensor) -> Tensor:
    return nn.functional.dropout(model.features(images).mean((2, 3)), 0.2)


def features_of_timm(model: Any, images: Tensor) -> Tensor:
    means: Tensor = model.forward_features(images).mean((2, 3))
    return means


KINDS = [
    ("cnn", features_of_cnn, "classifier.3"),
    ("mobilenet_v2", features_of_mobilenet, "classifier.1"),
    ("timm:test_resnet", features_of_timm, "fc"),
]


def projected(name: str, width: int = 5) -> Projected:
    torch.manual_seed(0)
    model = Projected(build(Proxy(name=name), SHAPE), CLASSES)
    model.reset(width)
    return model.train()


def batch(size: int = 4) -> Tensor:
    return torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "features_of", "head"), KINDS)
def test_projected_features_are_w_times_the_penultimate_features(
    name: str, features_of: Callable[[Any, Tensor], Tensor], head: str
) -> None:
    model, images = projected(name), batch()
    assert head_name(model.proxy, CLASSES) == head
    torch.manual_seed(2)  # so that mobilenet_v2 draws the same dropout mask twice
    logits = model(images)
    torch.manual_seed(2)
    features = features_of(model.proxy, images)
    last: Any = model.proxy.get_submodule(head)
    weight: Any = model.projection.weight
    assert torch.allclose(model.projected, torch.einsum("bi,di->bd", features, weight), atol=1e-5)
    assert torch.allclose(logits, features @ last.weight.T + last.bias, atol=1e-5)
    assert model.projected.shape == (4, 5)
    assert model.projection.bias is None


@pytest.mark.parametrize("name", [name for name, _, _ in KINDS])
def test_evaluation_does_not_change_projected_features(name: str) -> None:
    model = projected(name)
    model.proxy.eval()  # as in a round's evaluation, which uses the proxy only
    model.proxy(batch())
    model(batch())
    assert model.projected.numel() == 0
    model.train()(batch())
    assert len(model.projected) == 4
    projected_features = model.projected
    model.eval()(batch(2))
    assert model.projected is projected_features


@pytest.mark.parametrize("name", [name for name, _, _ in KINDS])
def test_loss_of_projected_features_has_no_gradient_for_the_head(name: str) -> None:
    model = projected(name)
    model(batch())
    model.projected.square().sum().backward()  # type: ignore[no-untyped-call]
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    head = f"proxy.{head_name(model.proxy, CLASSES)}"
    assert "projection.weight" in with_gradient
    assert any(n.startswith("proxy.") for n in with_gradient)
    assert not any(n.startswith(head) for n in with_gradient)


def test_reset_replaces_the_projection_by_one_of_another_width() -> None:
    model, images = projected("cnn", width=5), batch()
    first = model.projection
    model(images)
    second = model.reset(9)
    model(images)
    assert model.projected.shape == (4, 9)
    assert model.projection is second
    assert second.weight.shape == (9, 512)
    trained = {id(p) for p in model.parameters()}
    assert id(second.weight) in trained
    assert id(first.weight) not in trained


def test_proxy_weights_do_not_contain_the_projection() -> None:
    plain = build(Proxy(name="cnn"), SHAPE)
    names = [*get_weights(plain)]
    model = Projected(plain, CLASSES)
    model.reset(5)
    model.train()(batch())
    assert [*get_weights(model.proxy)] == names
    assert [*get_weights(model.projection)] == ["weight"]


def test_model_without_a_linear_head_is_refused() -> None:
    with pytest.raises(SpecError, match="Sequential has no linear layer with 7 outputs"):
        Projected(nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.Flatten()), CLASSES)
