"""Layers that do what torch's do, in less time."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fedray.models.fast_layers import convolution
from fedray.models.fast_layers.attention import FastAttention
from fedray.models.fast_layers.heads import keep_head_float32


def use_fast_layers(model: nn.Module) -> nn.Module:
    """The same model, the classes of its layers exchanged in place for those that know where their work is simpler.

    Weights, names and hooks stay.
    """
    for layer in model.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = convolution.fast_class_of(layer)
        elif type(layer) is nn.MultiheadAttention:
            layer.__class__ = FastAttention
    return model


def prepare_for_training(model: nn.Module, classes: int) -> nn.Module:
    """A proxy whose layers are what a client trains: simplified, and with logits in float32."""
    return keep_head_float32(use_fast_layers(model), classes)


@contextmanager
def with_torch_layers(model: nn.Module) -> Iterator[None]:
    """With torch's own convolutions meanwhile: operations are counted as everybody counts them, padding included."""
    simpler = [
        layer for layer in model.modules() if type(layer) in (convolution.FastConv2d, convolution.FastDepthwiseConv2d)
    ]
    for layer in simpler:
        layer.__class__ = nn.Conv2d
    try:
        yield
    finally:
        use_fast_layers(model)
