"""Every random choice is derived from the spec's seed and the purpose of the choice.

No two choices share a generator, so a choice does not depend on what ran before it or in which process.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Label = str | int


def derive_seed(root: int, *labels: Label) -> int:
    """Return a seed of 63 bits for one purpose, as in `derive_seed(0, "order", client, epoch)`."""
    digest = hashlib.sha256(repr((root, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(root: int, *labels: Label) -> np.random.Generator:
    """Return a NumPy generator for one purpose."""
    return np.random.Generator(np.random.PCG64(derive_seed(root, *labels)))


@contextmanager
def torch_rng(device: "torch.device | None", root: int, *labels: Label) -> Iterator[None]:
    """Seed torch's global generators for one purpose, and restore their state on exit.

    Weight initialisation and dropout use only these generators.
    """
    import torch

    seed = derive_seed(root, *labels)
    gpu = device if device is not None and device.type == "cuda" else None
    with torch.random.fork_rng(devices=[gpu] if gpu else []):
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` takes milliseconds, as it seeds all GPUs
        if gpu:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def hash_integers(values: npt.NDArray[np.int64], root: int, *labels: Label) -> npt.NDArray[np.uint64]:
    """Return a pseudo-random uint64 [n] for each value [n], independent of the value's position in the array.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): its finaliser of (value + 1) · golden ratio + seed.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = (values.astype(np.uint64) + np.uint64(1)) * golden + np.uint64(derive_seed(root, *labels))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
