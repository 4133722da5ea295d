"""A weighted mean of weights whose bits do not depend on the order of addition."""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.types import Weights

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

UNITS = 2.0**44
"""Each product weight · x is rounded to a multiple of 1 / UNITS. The rounding error is at most 2⁻⁴⁵ per client, before
the division by the total weight: far below half a float32 ulp of any weight that matters."""

INT64_LIMIT = 2.0**18
"""Largest sum of weight · |x| that an int64 can hold in units."""

COARSE_UNITS = 2.0**36
"""Units per coarse unit. Beyond INT64_LIMIT a sum is coarse · COARSE_UNITS + fine, both integers in float64.

For |x| <= 2²⁰ (which `check_weights` guarantees), up to 2²⁵ examples and 2¹⁷ clients, both stay below 2⁵³, up to which
float64 represents every integer.
"""

BLOCK_SIZE = 2**13
"""Values that are added at a time: few enough for the intermediate results to stay in a core's cache."""


class ExactMean:
    """A weighted mean of updates. `mean` gives the same bits for any order and grouping of the updates.

    Floating-point sums depend on their order, integer sums do not. So each product weight · x is rounded once to an
    integer number of units, and the integers are added. A sum takes 8 bytes per parameter for any number of updates,
    16 if its values are large; the same is sent between nodes.
    """

    def __init__(self) -> None:
        self.total = 0  # sum of the weights
        self._sums: dict[str, ExactSum] = {}

    def add(self, weights: Weights, weight: int) -> None:
        """Add one update with its weight."""
        self.total += weight
        for name, array in weights.items():
            self._sum(name, array.shape).add(array, weight)

    def merge(self, other: "ExactMean") -> None:
        """Add all updates of another mean."""
        self.total += other.total
        for name, other_sum in other._sums.items():
            self._sum(name, other_sum.shape).merge(other_sum)

    def mean(self) -> Weights:
        """Return the mean in float64, which `cast_like` rounds to the dtypes of a model."""
        return {name: total.divide(self.total) for name, total in self._sums.items()}

    def _sum(self, name: str, shape: tuple[int, ...]) -> "ExactSum":
        if name not in self._sums:
            self._sums[name] = ExactSum(shape)
        return self._sums[name]


def cast_like(arrays: Weights, like: Weights) -> Weights:
    """Return float arrays in the dtypes of `like`; integers (BatchNorm's counters) are rounded."""
    return {
        name: np.asarray(np.rint(arrays[name]) if array.dtype.kind in "iu" else arrays[name], array.dtype)
        for name, array in like.items()
    }


class ExactSum:
    """A weighted sum of arrays of one shape, as integer numbers of units."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._bound = 0.0  # no value of the sum is larger
        self._units: tuple[Integers] | tuple[Floats, Floats]  # units, or (coarse, fine)
        self._units = (np.zeros(math.prod(shape), np.int64),)

    def add(self, array: npt.NDArray[np.generic], weight: int) -> None:
        """Add `weight` times the array."""
        self._raise_bound(weight * max(-float(array.min()), float(array.max())) if array.size else 0.0)
        values, sums = array.reshape(-1), self._units
        for start in range(0, array.size, BLOCK_SIZE):
            block = slice(start, start + BLOCK_SIZE)
            units = values[block].astype(np.float64)
            if len(sums) == 1:
                units *= weight * UNITS
                sums[0][block] += np.rint(units, out=units).astype(np.int64)
                continue
            units *= weight * (UNITS / COARSE_UNITS)
            coarse = np.rint(units)
            sums[0][block] += coarse
            units -= coarse
            units *= COARSE_UNITS
            sums[1][block] += np.rint(units, out=units)

    def merge(self, other: "ExactSum") -> None:
        """Add another sum of the same shape."""
        self._raise_bound(other._bound)
        if len(self._units) == 1 and len(other._units) == 1:
            np.add(self._units[0], other._units[0], out=self._units[0])
            return
        for units, addend in zip(self._split(), other._split(), strict=True):
            units += addend

    def divide(self, total: int) -> npt.NDArray[np.float64]:
        """Return the sum divided by `total`."""
        quotient = self._units[0].astype(np.float64) if len(self._units) == 1 else self._join()
        quotient /= UNITS
        quotient /= total
        quotient += 0.0  # turns -0 into 0
        return quotient.reshape(self.shape)

    def _raise_bound(self, extent: float) -> None:
        self._bound += extent
        if self._bound >= INT64_LIMIT:
            self._units = self._split()

    def _split(self) -> tuple[Floats, Floats]:
        """Return the sum as (coarse, fine)."""
        if len(self._units) == 2:
            return self._units
        (units,) = self._units
        coarse = (units + 2**35) >> 36
        return coarse.astype(np.float64), (units - (coarse << 36)).astype(np.float64)

    def _join(self) -> Floats:
        coarse, fine = self._split()
        return (coarse + fine / COARSE_UNITS) * COARSE_UNITS
