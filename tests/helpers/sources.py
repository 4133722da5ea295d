"""Functions that read image sources in tests."""

import numpy as np
import pytest

from fedray.data.dataset import Dataset
from fedray.data.sources import Choose, Side, read
from fedray.errors import SpecError
from fedray.types import Indices


def everything(labels: Indices) -> Indices:
    """Chooses all images."""
    return np.arange(len(labels))


def only(*positions: int) -> Choose:
    """Return a function that chooses the images at these positions."""
    return lambda _: np.array(positions)


def read_all(source: str, side: Side = "train", size: int | None = None) -> Dataset:
    """Read all images of a source."""
    return read(source, side, everything, size)


def message_of(source: str, size: int | None = None) -> str:
    """Return the message of the SpecError that reading the source raises."""
    with pytest.raises(SpecError) as caught:
        read_all(source, size=size)
    return str(caught.value)


def channels_first(image: np.ndarray) -> np.ndarray:
    """[H, W, C] -> [C, H, W]."""
    return np.moveaxis(image, -1, 0)
