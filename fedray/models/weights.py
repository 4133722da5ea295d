"""Between a torch module and the plain arrays that travel."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from fedray.types import Weights


def get_weights(model: nn.Module) -> Weights:
    """A copy of all parameters and buffers, on the CPU, C-contiguous."""
    return {name: np.array(value.detach().cpu().numpy(), order="C") for name, value in model.state_dict().items()}


def set_weights(model: nn.Module, weights: Weights) -> None:
    """Overwrite all parameters and buffers. The arrays may be read-only, as Ray's shared ones are."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(torch.from_numpy(np.array(weights[name])))


def check_weights(weights: Weights, like: Weights) -> str | None:
    """What is wrong with weights that should have the names, shapes and types of `like`, if anything."""
    if weights.keys() != like.keys():
        return f"its weights are named differently ({', '.join(sorted(weights.keys() ^ like.keys())[:3])} ...)"
    for name, array in weights.items():
        if array.shape != like[name].shape or array.dtype != like[name].dtype:
            return f"{name} is {array.dtype}{list(array.shape)}, not {like[name].dtype}{list(like[name].shape)}"
        if not np.isfinite(array).all():
            return f"{name} is not finite"
        if array.dtype.kind == "f" and array.size and np.abs(array).max() > LARGEST:
            return f"{name} has grown beyond {LARGEST:g}: training diverged"
    return None


LARGEST = 2.0**20
"""The largest weight the server accepts: what `aggregation` can still add up exactly."""


def parameter_names(model: nn.Module) -> list[str]:
    """What is trained; the other names are buffers, such as BatchNorm's counters."""
    return [name for name, _ in model.named_parameters()]


def distance(weights: Weights, other: Weights, names: Iterable[str]) -> float:
    """The Euclidean distance between two models, over the arrays of these names."""
    squares = (np.square(weights[name] - other[name], dtype=np.float64).sum() for name in names)
    return math.sqrt(math.fsum(squares))


def nbytes(weights: Weights) -> int:
    """How many bytes the weights take when they are sent."""
    return sum(array.nbytes for array in weights.values())
