"""A weighted mean of weights whose bits do not depend on the order of addition."""

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.types import Weights

Array: TypeAlias = npt.NDArray[Any]

UNIT = 2.0**44
"""Each n·x is counted in units of 2⁻⁴⁴. What is rounded off is at most 2⁻⁴⁵ per client, before the division by the
examples: far below half a float32 ulp of any weight that matters."""

NARROW = 2.0**18
"""Up to which sum of n·|x| an int64 surely holds the count."""

FINE = 2.0**36
"""Beyond it, the count is coarse · 2³⁶ + fine, both whole numbers in float64.

With |x| <= 2²⁰ (what `check_weights` lets through), up to 2²⁵ examples and 2¹⁷ clients neither
passes 2⁵³, up to which float64 counts exactly.
"""

BLOCK = 2**13
"""How many numbers are added at a time: few enough to stay in a core's own cache on the way."""


class ExactMean:
    """Fold updates in, in any order, on any node; `mean` gives the same bits.

    Floating-point sums depend on their order, sums of whole numbers do not. So each weight·x is
    rounded once to whole units and those are added. Memory, and what travels: 8 bytes for each
    parameter, however many updates there are; 16 where their values are large.
    """

    def __init__(self) -> None:
        self.total = 0
        self._sums: dict[str, Sum] = {}

    def add(self, weights: Weights, weight: int) -> None:
        """Fold in one update that counts `weight` times."""
        self.total += weight
        for name, array in weights.items():
            self._sum(name, array.shape).add(array, weight)

    def merge(self, other: "ExactMean") -> None:
        """Fold in all that another mean has folded in."""
        self.total += other.total
        for name, each in other._sums.items():
            self._sum(name, each.shape).merge(each)

    def fold(self, part: "Weights | ExactMean", weight: int) -> None:
        """Fold in one update, or the sum of several, that counts `weight` times."""
        if isinstance(part, ExactMean):
            assert part.total == weight, "a sum knows what it is a sum of"
            self.merge(part)
        else:
            self.add(part, weight)

    def mean(self, like: Weights) -> Weights:
        """The mean, in the types of `like`; integers (BatchNorm's counters) are rounded."""
        return {name: self._sums[name].divided(self.total, array.dtype) for name, array in like.items()}

    def _sum(self, name: str, shape: tuple[int, ...]) -> "Sum":
        if name not in self._sums:
            self._sums[name] = Sum(shape)
        return self._sums[name]


class Sum:
    """Of arrays of one shape: how many units there are in each of its numbers, one after another."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._extent = 0.0  # no number is larger
        self._count: tuple[Array, ...] = (np.zeros(math.prod(shape), np.int64),)  # or coarse and fine

    def add(self, array: Array, weight: int) -> None:
        """`weight` times the array."""
        self._grow(weight * max(-float(array.min()), float(array.max())) if array.size else 0.0)
        values, count = array.reshape(-1), self._count
        for start in range(0, array.size, BLOCK):
            block = slice(start, start + BLOCK)
            units = values[block].astype(np.float64)
            if len(count) == 1:
                units *= weight * UNIT
                count[0][block] += np.rint(units, out=units).astype(np.int64)
                continue
            units *= weight * (UNIT / FINE)
            coarse = np.rint(units)
            count[0][block] += coarse
            units -= coarse
            units *= FINE
            count[1][block] += np.rint(units, out=units)

    def merge(self, other: "Sum") -> None:
        """All that another has added."""
        self._grow(other._extent)
        theirs = other._count if len(self._count) == 1 else other._wide()
        for mine, part in zip(self._count, theirs, strict=True):
            mine += part

    def divided(self, total: int, dtype: np.dtype[Any]) -> Array:
        """The sum by `total`, in a type."""
        counted = self._count[0].astype(np.float64) if len(self._count) == 1 else self._joined()
        counted /= UNIT
        counted /= total
        counted += 0.0  # which makes -0 a 0
        rounded: Array = np.rint(counted) if np.issubdtype(dtype, np.integer) else counted
        return rounded.astype(dtype).reshape(self.shape)

    def _grow(self, extent: float) -> None:
        self._extent += extent
        if self._extent >= NARROW:
            self._count = self._wide()

    def _wide(self) -> tuple[Array, ...]:
        """Coarse and fine."""
        if len(self._count) == 2:
            return self._count
        (count,) = self._count
        coarse = (count + 2**35) >> 36
        return coarse.astype(np.float64), (count - (coarse << 36)).astype(np.float64)

    def _joined(self) -> Array:
        coarse, fine = self._count
        joined: Array = (coarse + fine / FINE) * FINE
        return joined
