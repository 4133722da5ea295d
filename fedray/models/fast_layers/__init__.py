"""Faster replacements of torch's layers: convolutions onto one pixel, 2x2 max-pooling, attention in bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fedray.models.fast_layers.attention import FastAttention
from fedray.models.fast_layers.convolution import FastConv2d, FastDepthwiseConv2d, fast_class_of
from fedray.models.fast_layers.pooling import MaxPool2x2, is_2x2


def use_fast_layers(model: nn.Module) -> nn.Module:
    """Replace the model's layers in place by faster ones, and return the model.

    Only the classes of the layers change: parameters, names and hooks stay. Subclasses of torch's layers are left
    unchanged. Results agree with torch's layers up to rounding; max-pooling agrees bit for bit.
    """
    for layer in model.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = fast_class_of(layer)
        elif type(layer) is nn.MaxPool2d and is_2x2(layer):
            layer.__class__ = MaxPool2x2
        elif type(layer) is nn.MultiheadAttention:
            layer.__class__ = FastAttention
    return model


@contextmanager
def torch_layers(model: nn.Module) -> Iterator[None]:
    """Use torch's own convolutions within the context, so that FLOPs are counted with padding, as is customary."""
    fast = (FastConv2d, FastDepthwiseConv2d)
    convolutions: list[nn.Conv2d] = [layer for layer in model.modules() if isinstance(layer, fast)]
    for layer in convolutions:
        layer.__class__ = nn.Conv2d
    try:
        yield
    finally:
        for layer in convolutions:
            layer.__class__ = fast_class_of(layer)
