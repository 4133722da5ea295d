"""A tiny proxy whose loss is smooth in its weights, so that rounding cannot turn a unit on or off.

A second implementation in float64 therefore stays within rounding of float32 training.
"""

from torch import nn

from fedray.types import ImageShape

CHANNELS, HIDDEN = 4, 12


def build(shape: ImageShape) -> nn.Sequential:
    """Return the model without normalisation."""
    return _build(shape)


def build_norm(shape: ImageShape) -> nn.Sequential:
    """Return the model with batch normalisation."""
    return _build(shape, nn.BatchNorm2d(CHANNELS))


def _build(shape: ImageShape, *norm: nn.Module) -> nn.Sequential:
    features = CHANNELS * (shape.size // 2) ** 2
    return nn.Sequential(
        nn.Conv2d(shape.channels, CHANNELS, 3, padding=1), *norm, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(features, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, shape.classes),
    )  # fmt: skip
