"""Proxy models: the section `proxy` of a spec, and construction of the model.

To add a model: a builder `(proxy, shape) -> nn.Module`, and its line in `BUILDERS`. Builders import their library when
they are called, so that no process waits for a library that the spec does not use. A model outside the package is a
function of its shape, `package.module:build`, or a subclass of `Proxy` with fields of its own and `build`.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, PrivateAttr, field_validator

from fedray.errors import SpecError, nearest
from fedray.registry import REFERENCE, Registry, load_object
from fedray.section import Section, reference_to
from fedray.types import ImageShape

if TYPE_CHECKING:
    from torch import nn


Factory: TypeAlias = Callable[[ImageShape], "nn.Module"]
"""A function outside the package that builds a model with random weights from torch's global generators."""


LINEAR_PROBE = "linear_probe"
"""Name of the proxy whose inputs are the teacher's features."""


class Proxy(Section):
    """The small model that clients train and exchange."""

    name: str = "cnn"
    """`cnn`, `resnet18`, `mobilenet_v2`, `efficientnet_b0`, `timm:NAME` for a model of timm, `linear_probe` for a
    linear layer on the teacher's features, or `package.module:Object` for a function or class outside the package."""
    stem: Literal["imagenet", "cifar"] | None = None
    """`cifar` leaves out the first two downsamplings, so that 32x32 images end as 4x4 pixels instead of 1x1.
    null for the model's default."""
    norm: Literal["batch", "group"] | None = None
    """Normalisation layers: `batch` or `group`; null for the model's default."""
    init: str = Field("random", pattern=r"^(random|pretrained(:.+)?|file:.+)$")
    """Initial weights: `random`, `pretrained` or `pretrained:TAG` (a tag of torchvision or timm), or `file:PATH`
    (safetensors)."""

    _factory: Factory | None = PrivateAttr(None)
    """The function, if it was given as an object that cannot be imported by its name."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name not in BUILDERS and not name.startswith("timm:") and not REFERENCE.fullmatch(name):
            raise ValueError(f"must be one of {', '.join(BUILDERS)} or timm:NAME{nearest(name, BUILDERS)}")
        return name

    @property
    def reads_features(self) -> bool:
        """Whether the model's inputs are the teacher's features of the images: [B, d, 1, 1] in place of pixels."""
        return self.name == LINEAR_PROBE

    @property
    def tag(self) -> str | None:
        """The library's tag of pretrained weights: `DEFAULT` if the spec names none, None if random."""
        kind, _, tag = self.init.partition(":")
        return (tag or "DEFAULT") if kind == "pretrained" else None

    def functions(self) -> list[FunctionType]:
        found = self._factory or (load_object(self.name) if self._is_outside else None)
        return [found] if isinstance(found, FunctionType) else []

    @property
    def has_batch_norm(self) -> bool | None:
        """Whether a built-in model has BatchNorm layers; None for other models."""
        if self.name not in BUILDERS or type(self) is not Proxy:
            return None
        return self.norm == "batch" or (self.norm is None and self.name != "cnn")

    @property
    def _is_outside(self) -> bool:
        return ":" in self.name and not self.name.startswith("timm:")

    def build(self, shape: ImageShape) -> "nn.Module":
        """Build the model. A class outside the package defines this method. Raises SpecError."""
        if self._is_outside:
            return _from_factory(self, shape)
        return BUILDERS.get(self.name, _timm)(self, shape)


def build(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    """Build the model with its initial weights; random weights are drawn from torch's global generators.

    Raises SpecError if the model does not exist, does not support the options, or has no such weights.
    """
    model = proxy.build(shape)
    if proxy.init.startswith("file:"):
        _load_file(model, proxy.init.removeprefix("file:"))
    return model


def _cnn(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    from fedray.models.cnn import SmallCNN

    if proxy.stem is not None or proxy.tag is not None:
        raise SpecError("proxy: the cnn has neither a stem nor pretrained weights; leave out stem and init.")
    if shape.size < 4:
        raise SpecError(
            f"proxy: the cnn needs images of at least 4x4 pixels, but the data has {shape.size}x{shape.size}."
        )
    return SmallCNN(shape.channels, shape.size, shape.classes, _norm_layer(proxy.norm) if proxy.norm else None)


def _resnet18(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    from torch import nn

    model = _torchvision(proxy, shape)
    if proxy.stem == "cifar":
        convolution = nn.Conv2d(shape.channels, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule("conv1", convolution)
        model.set_submodule("maxpool", nn.Identity())
    return _replace_head(model, "fc", shape.classes)


def _mobilenet_v2(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    model = _torchvision(proxy, shape)
    if proxy.stem == "cifar":
        _remove_strides(model, "features.0.0", "features.2.conv.1.0")
    return _replace_head(model, "classifier.1", shape.classes)


def _efficientnet_b0(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    model = _torchvision(proxy, shape)
    if proxy.stem == "cifar":
        _remove_strides(model, "features.0.0", "features.2.0.block.1.0")
    return _replace_head(model, "classifier.1", shape.classes)


def _linear_probe(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    """One linear layer on the teacher's features: the teacher's backbone is the body that all clients share.

    Clients train and exchange it as any other proxy. The teacher `kind: adapted, method: linear_probe` is different: a
    head that each client fits once, before round 1, and never exchanges, and that then teaches a proxy of images.
    """
    from torch import nn

    if shape.size > 1:
        raise SpecError(f"{LINEAR_PROBE} reads a teacher's features, not images; it can only be the name of the proxy.")
    if proxy.stem is not None or proxy.norm is not None or proxy.tag is not None:
        raise SpecError("proxy: a linear_probe has neither stem, norm nor pretrained weights; leave them out.")
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), head=nn.Linear(shape.channels, shape.classes)))


BUILDERS: Mapping[str, Callable[[Proxy, ImageShape], "nn.Module"]] = {
    "cnn": _cnn,
    "resnet18": _resnet18,
    "mobilenet_v2": _mobilenet_v2,
    "efficientnet_b0": _efficientnet_b0,
    LINEAR_PROBE: _linear_probe,
}


class Proxies(Registry[Proxy]):
    """`Proxy` for built-in models, timm's and functions, and subclasses of it from outside the package."""

    def resolve(self, name: str) -> type[Proxy]:
        """Return the class of the section of a model. Raises SpecError without a subject."""
        reference = None if name in BUILDERS or name.startswith("timm:") else self.reference(name)
        if reference is None or isinstance(load_object(reference), FunctionType):
            return Proxy
        return super().resolve(reference)

    def _validate(self, value: object) -> object:
        if isinstance(value, FunctionType):
            return _of_function(value)
        if isinstance(value, Mapping) and str(value.get("name", "cnn")) in BUILDERS:
            return Proxy.model_validate(value)
        return super()._validate(value)

    def _class_of(self, choice: object) -> type[Proxy]:
        is_unknown = isinstance(choice, str) and (choice.startswith("timm:") or self.reference(choice) is None)
        return Proxy if is_unknown else super()._class_of(choice)

    def _section(self, found: type[Proxy], value: Mapping[str, object]) -> object:
        if found is not Proxy:
            return super()._section(found, value)
        name = value["name"]
        return Proxy.model_validate({**value, "name": self._references.get(str(name), name)})


PROXIES = Proxies(Proxy, "fedray.proxies", (Proxy,))

AnyProxy = Annotated[Proxy, PROXIES]


def _of_function(factory: Factory) -> Proxy:
    assert isinstance(factory, FunctionType)
    name = reference_to(factory)
    proxy = Proxy.model_construct(name=name)
    if not REFERENCE.fullmatch(name) or name.startswith("__main__:"):
        proxy._factory = factory
    return proxy


def _from_factory(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    from torch import nn

    factory = proxy._factory or load_object(proxy.name)
    if proxy.stem is not None or proxy.norm is not None or proxy.tag is not None:
        raise SpecError(f"proxy: stem, norm and pretrained weights cannot be set for {proxy.name}; leave them out.")
    model = factory(shape) if isinstance(factory, FunctionType) else None
    if not isinstance(model, nn.Module):
        raise SpecError(f"proxy.name: '{proxy.name}' must be a function that returns a torch.nn.Module.")
    return model


def _torchvision(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    """Build torchvision's model, with pretrained weights if the spec sets them."""
    from torchvision import models

    if proxy.tag is not None and (proxy.norm == "group" or shape.channels != 3):
        raise SpecError("proxy.init: pretrained weights need batch norm and colour images.")
    if proxy.tag is not None and proxy.name == "resnet18" and proxy.stem == "cifar":
        raise SpecError("proxy.init: resnet18's pretrained weights do not fit stem 'cifar'; use 'imagenet'.")
    tags = models.get_model_weights(proxy.name)
    if proxy.tag is not None and proxy.tag not in tags.__members__:
        raise SpecError(f"proxy.init: {proxy.name} has no weights '{proxy.tag}', only {', '.join(tags.__members__)}.")
    weights = tags[proxy.tag] if proxy.tag is not None else None
    try:
        model: nn.Module = models.get_model(proxy.name, weights=weights, norm_layer=_norm_layer(proxy.norm or "batch"))
    except OSError as error:
        raise SpecError(f"proxy.init: the weights {weights} could not be downloaded ({error}).") from error
    if shape.channels != 3:
        _change_first_convolution(model, shape.channels)
    return model


def _timm(proxy: Proxy, shape: ImageShape) -> "nn.Module":
    import timm

    name = proxy.name.removeprefix("timm:")
    if proxy.stem is not None or proxy.norm is not None:
        raise SpecError("proxy: stem and norm cannot be set for a timm model; leave them out.")
    if name not in timm.list_models():
        raise SpecError(f"proxy.name: timm has no model '{name}'{nearest(name, timm.list_models())}")
    config = timm.get_pretrained_cfg(name)
    has_fixed_size = config is not None and config.fixed_input_size
    full_name = f"{name}.{proxy.tag}" if proxy.tag not in (None, "DEFAULT") else name
    try:
        model: nn.Module = timm.create_model(
            full_name,
            pretrained=proxy.tag is not None,
            num_classes=shape.classes,
            in_chans=shape.channels,
            **({"img_size": shape.size} if has_fixed_size else {}),
        )
    except (OSError, RuntimeError) as error:
        raise SpecError(f"proxy.init: timm could not load '{proxy.init}' for {name} ({error}).") from error
    return model


def _norm_layer(norm: str) -> Callable[[int], "nn.Module"]:
    from torch import nn

    if norm == "batch":
        return nn.BatchNorm2d
    return lambda channels: nn.GroupNorm(math.gcd(32, channels), channels)


def _replace_head(model: "nn.Module", name: str, classes: int) -> "nn.Module":
    from torch import nn

    head = model.get_submodule(name)
    assert isinstance(head, nn.Linear)
    model.set_submodule(name, nn.Linear(head.in_features, classes))
    return model


def _remove_strides(model: "nn.Module", *convolutions: str) -> None:
    from torch import nn

    for name in convolutions:
        convolution = model.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        convolution.stride = (1, 1)


def _change_first_convolution(model: "nn.Module", channels: int) -> None:
    from torch import nn

    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)  # type: ignore[arg-type]
    model.set_submodule(name, new)


def _load_file(model: "nn.Module", path: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(model, Path(path).expanduser())
    except (OSError, RuntimeError, SafetensorError) as error:
        raise SpecError(f"proxy.init: '{path}' does not hold this model's weights ({str(error)[:400]}).") from error
