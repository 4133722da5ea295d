"""Layers that do what torch's do, in less time."""

from torch import nn

from fedray.models import convolution
from fedray.models.attention import Attention


def simplify(model: nn.Module) -> nn.Module:
    """The same model; its layers keep weights, names and hooks, and know where their work is simpler."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = convolution.kind_of(layer)
        elif type(layer) is nn.MultiheadAttention:
            layer.__class__ = Attention
    return model
