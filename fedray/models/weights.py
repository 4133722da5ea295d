"""Between a torch module and the plain arrays that travel."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from fedray.errors import RunError
from fedray.types import Weights

if TYPE_CHECKING:
    from torch import nn


def get_weights(model: "nn.Module") -> Weights:
    """A copy of all parameters and buffers, on the CPU, C-contiguous."""
    import torch

    return {
        name: value.to("cpu", copy=True, memory_format=torch.contiguous_format).numpy()
        for name, value in model.state_dict().items()
    }


def set_weights(model: "nn.Module", weights: Weights) -> None:
    """Overwrite all parameters and buffers. The arrays may be read-only, as Ray's shared ones are."""
    import torch

    for name, value in model.state_dict().items():
        if value.device.type == "cpu":
            np.copyto(value.numpy(), weights[name], casting="no")
        else:
            value.copy_(torch.from_numpy(np.array(weights[name])))


def check_weights(weights: Weights, like: Weights) -> str | None:
    """What is wrong with weights that should have the names, shapes and types of `like`, if anything."""
    if weights.keys() != like.keys():
        return f"its weights are named differently ({', '.join(sorted(weights.keys() ^ like.keys())[:3])} ...)"
    for name, array in weights.items():
        if array.shape != like[name].shape or array.dtype != like[name].dtype:
            return f"{name} is {array.dtype}{list(array.shape)}, not {like[name].dtype}{list(like[name].shape)}"
        if array.dtype.kind != "f" or not array.size:
            continue
        extent = max(-float(array.min()), float(array.max()))  # both are NaN where one entry is
        if not math.isfinite(extent):
            return f"{name} is not finite"
        if extent > LARGEST:
            return f"{name} has grown beyond {LARGEST:g}: training diverged"
    return None


LARGEST = 2.0**20
"""The largest weight the server accepts: what `aggregation` can still add up exactly."""


PIECE = 2**16


def parameter_names(model: "nn.Module") -> list[str]:
    """What is trained; the other names are buffers, such as BatchNorm's counters."""
    return [name for name, _ in model.named_parameters()]


def distance(weights: Weights, other: Weights, names: Iterable[str]) -> float:
    """The Euclidean distance between two models, over the arrays of these names."""
    return math.sqrt(math.fsum(_squares(weights[name].ravel(), other[name].ravel()) for name in names))


def _squares(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """The squared distance of [n] and [n] in double precision, piece by piece so that no piece leaves the cache."""
    pieces = (slice(start, start + PIECE) for start in range(0, one.size, PIECE))
    return math.fsum(np.square(one[piece] - other[piece], dtype=np.float64).sum() for piece in pieces)


def nbytes(weights: Weights) -> int:
    """How many bytes the weights take when they are sent."""
    return sum(array.nbytes for array in weights.values())


@dataclass(frozen=True)
class WeightsFile:
    """Weights that are on the driver's disk until somebody needs them."""

    path: Path

    def read(self) -> Weights:
        """Raises RunError where they cannot be."""
        try:
            return load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"'{self.path}' cannot be read ({error}).") from error

    def check(self) -> None:
        """Raises SafetensorError or OSError where it is cut short or not there."""
        with safe_open(self.path, "numpy"):
            pass
