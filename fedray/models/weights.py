"""Conversion between a torch module and the NumPy arrays that are sent, and checks of received arrays."""

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedray.errors import RunError, writing
from fedray.files import replacing
from fedray.types import ArrayGroups, ParameterInfo, Weights

if TYPE_CHECKING:
    from torch import nn

MAX_WEIGHT = 2.0**20
"""Largest absolute value of a weight that the server accepts; `ExactMean` is exact up to it."""

CHECKSUM = "crc32"
"""Name of the checksum in the metadata of a weights file."""

BLOCK_SIZE = 2**16
"""Values per block of a distance: few enough for a block to stay in the processor's cache."""


def get_weights(model: "nn.Module") -> Weights:
    """Return a copy of all parameters and buffers, on the CPU, C-contiguous."""
    import torch

    return {
        name: value.to("cpu", copy=True, memory_format=torch.contiguous_format).numpy()
        for name, value in model.state_dict().items()
    }


def set_weights(model: "nn.Module", weights: Weights) -> None:
    """Overwrite all parameters and buffers. The arrays may be read-only, as arrays in Ray's object store are."""
    import torch

    for name, value in model.state_dict().items():
        if value.device.type == "cpu":
            np.copyto(value.numpy(), weights[name], casting="no")
        else:
            value.copy_(torch.from_numpy(np.array(weights[name])))


def _torch_class_name(module: "nn.Module") -> str:
    """Return the name of a layer's class, for fedray's faster layers that of the torch class that they replace."""
    own = ("fedray.models.fast_layers", "fedray.models.heads")
    return next(kind.__name__ for kind in type(module).__mro__ if not kind.__module__.startswith(own))


def check_weights(weights: Weights, like: Weights) -> str | None:
    """Return the reason why weights cannot be averaged with `like`, or None.

    Names, shapes and dtypes must be equal, and floats finite and at most MAX_WEIGHT in size.
    """
    if weights.keys() != like.keys():
        return f"its weights are named differently ({', '.join(sorted(weights.keys() ^ like.keys())[:3])} ...)"
    for name, array in weights.items():
        if array.shape != like[name].shape or array.dtype != like[name].dtype:
            return f"{name} is {array.dtype}{list(array.shape)}, not {like[name].dtype}{list(like[name].shape)}"
        if problem := _range_problem(array):
            return f"{name} {problem}"
    return None


def _range_problem(array: npt.NDArray[np.generic]) -> str | None:
    if array.dtype.kind != "f" or not array.size:
        return None
    extent = max(-float(array.min()), float(array.max()))  # both are NaN if an entry is
    if not math.isfinite(extent):
        return "is not finite"
    return f"has grown beyond {MAX_WEIGHT:g}: training diverged" if extent > MAX_WEIGHT else None


def check_message(name: str, arrays: Weights) -> str | None:
    """Return the reason why a strategy's own message cannot be added up, or None."""
    for part, array in arrays.items():
        if problem := _range_problem(array):
            return f"{part} of its message '{name}' {problem}"
    return None


def describe_parameters(model: "nn.Module", classes: int) -> list[ParameterInfo]:
    """Describe each array of a model, in the order of `get_weights`."""
    from fedray.models.heads import find_head

    head, trained = find_head(model, classes), {name for name, _ in model.named_parameters()}
    infos = []
    for name, value in model.state_dict().items():
        module, _, _ = name.rpartition(".")
        kind, is_head = _torch_class_name(model.get_submodule(module)), module == head
        infos.append(ParameterInfo(name, tuple(value.shape), kind, is_head, name not in trained))
    return infos


def distance(weights: Weights, other: Weights, names: Iterable[str]) -> float:
    """Return the Euclidean distance between two models, over the arrays of these names."""
    return math.sqrt(math.fsum(_squares(weights[name].ravel(), other[name].ravel()) for name in names))


def _squares(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> float:
    """Return the squared distance of [n] and [n], summed in float64."""
    blocks = (slice(start, start + BLOCK_SIZE) for start in range(0, first.size, BLOCK_SIZE))
    return math.fsum(np.square(np.subtract(first[block], second[block]), dtype=np.float64).sum() for block in blocks)


def nbytes(groups: ArrayGroups) -> int:
    """Return the size of all arrays in bytes."""
    return sum(array.nbytes for arrays in groups.values() for array in arrays.values())


@dataclass(frozen=True)
class WeightsFile:
    """Weights in a safetensors file on the driver's disk, read when they are needed."""

    path: Path

    def read(self) -> Weights:
        """Return the weights. Raises RunError if the file is missing, truncated or damaged."""
        try:
            with safe_open(self.path, "numpy") as file:
                metadata = file.metadata() or {}
                weights: Weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        except (OSError, SafetensorError) as error:
            raise RunError(f"'{self.path}' cannot be read ({error}).") from error
        if metadata.get(CHECKSUM) != checksum(weights):
            raise RunError(f"'{self.path}' is damaged: its contents differ from its checksum.")
        return weights

    def write(self, weights: Weights) -> None:
        """Write the weights with their checksum; the file is either complete or absent. Raises RunError."""
        with writing(self.path), replacing(self.path) as partial:
            save_weights(partial, weights)


def save_weights(path: Path, weights: Weights) -> None:
    """Write arrays with their checksum into a file that `WeightsFile` reads. Raises OSError."""
    try:
        save_file(weights, path, {CHECKSUM: checksum(weights)})
    except SafetensorError as error:  # raised for a full disk
        raise OSError(str(error)) from error


@dataclass(frozen=True)
class GroupsFile:
    """Groups of arrays in a safetensors file on the driver's disk, read when they are needed."""

    path: Path

    def read(self) -> ArrayGroups:
        """Return the groups. Raises RunError if the file is missing, truncated or damaged."""
        groups: dict[str, Weights] = {}
        for name, array in WeightsFile(self.path).read().items():
            group, _, part = name.partition("/")
            groups.setdefault(group, {})[part] = array
        return groups

    def write(self, groups: ArrayGroups) -> None:
        """Write the groups as `group/name`; the file is either complete or absent. Raises RunError."""
        WeightsFile(self.path).write(
            {f"{group}/{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
        )


def checksum(weights: Weights) -> str:
    """Return the CRC-32 of names, dtypes, shapes and values."""
    crc = 0
    for name, array in sorted(weights.items()):
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"
