"""Proxies: a function of the images' shape, and a class with fields of its own."""

from typing import TYPE_CHECKING

from pydantic import Field

from fedray import ImageShape, Proxy

if TYPE_CHECKING:
    from torch import nn


def linear(shape: ImageShape) -> "nn.Module":
    """Build a linear classifier. torch initialises the weights with the seed of the run."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(shape.channels * shape.size**2, shape.classes))


class Perceptron(Proxy):
    """One hidden layer."""

    width: int = Field(32, ge=1)
    """Units of the hidden layer."""

    def build(self, shape: ImageShape) -> "nn.Module":
        """Build the network; its last layer must be linear."""
        from torch import nn

        pixels = shape.channels * shape.size**2
        return nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, self.width), nn.ReLU(), nn.Linear(self.width, shape.classes)
        )
