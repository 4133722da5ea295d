"""A weighted mean of weights whose bits do not depend on the order of addition."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.types import Weights

COARSE = 2.0**8
FINE = 2.0**36
"""n·x is kept as coarse / 2⁸ + fine / 2⁴⁴, both whole numbers.

With |x| <= 2²⁰ (what `check_weights` lets through), up to 2²⁵ examples and 2¹⁷ clients neither sum
passes 2⁵³, up to which float64 counts exactly. What is rounded off is at most 2⁻⁴⁵ per client,
before the division by the examples: far below half a float32 ulp of any weight that matters.
"""

Sums: TypeAlias = npt.NDArray[np.float64]

BLOCK = 2**13
"""How many numbers are added at a time: few enough to stay in a core's own cache on the way."""


class ExactMean:
    """Fold updates in, in any order, on any node; `mean` gives the same bits.

    Floating-point sums depend on their order, sums of whole numbers do not. So each weight·x is
    rounded once to two whole numbers (coarse and fine) and those are added. Memory: 16 bytes for
    each parameter, however many updates there are.
    """

    def __init__(self) -> None:
        self.total = 0
        self._coarse: dict[str, Sums] = {}
        self._fine: dict[str, Sums] = {}

    def add(self, weights: Weights, weight: int) -> None:
        """Fold in one update that counts `weight` times."""
        self.total += weight
        for name, array in weights.items():
            if name not in self._coarse:
                self._coarse[name], self._fine[name] = np.zeros(array.shape), np.zeros(array.shape)
            _add(array.reshape(-1), weight * COARSE, self._coarse[name].reshape(-1), self._fine[name].reshape(-1))

    def merge(self, other: "ExactMean") -> None:
        """Fold in all that another mean has folded in."""
        self.total += other.total
        for name, coarse in other._coarse.items():
            if name in self._coarse:
                self._coarse[name] += coarse
                self._fine[name] += other._fine[name]
            else:
                self._coarse[name], self._fine[name] = coarse.copy(), other._fine[name].copy()

    def fold(self, part: "Weights | ExactMean", weight: int) -> None:
        """Fold in one update, or the sum of several, that counts `weight` times."""
        if isinstance(part, ExactMean):
            assert part.total == weight, "a sum knows what it is a sum of"
            self.merge(part)
        else:
            self.add(part, weight)

    def mean(self, like: Weights) -> Weights:
        """The mean, in the types of `like`; integers (BatchNorm's counters) are rounded."""
        return {name: self._mean(name, array.dtype) for name, array in like.items()}

    def __getstate__(self) -> dict[str, Any]:
        """What travels from node to node: 8 bytes for each parameter where they are enough, else 16."""
        sums = {name: _packed(coarse, self._fine[name]) for name, coarse in self._coarse.items()}
        return {"total": self.total, "sums": sums}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.total = state["total"]
        both = {name: _unpacked(*packed) for name, packed in state["sums"].items()}
        self._coarse = {name: coarse for name, (coarse, _) in both.items()}
        self._fine = {name: fine for name, (_, fine) in both.items()}

    def _mean(self, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        mean = (self._coarse[name] + self._fine[name] / FINE) / COARSE / self.total + 0.0  # which makes -0 a 0
        return np.asarray(np.rint(mean) if np.issubdtype(dtype, np.integer) else mean).astype(dtype)


def _add(values: npt.NDArray[Any], scale: float, coarse: Sums, fine: Sums) -> None:
    """scale · values, onto both sums."""
    for block in _blocks(len(values)):
        rest = values[block].astype(np.float64)
        rest *= scale
        whole = np.rint(rest)
        coarse[block] += whole
        rest -= whole
        rest *= FINE
        fine[block] += np.rint(rest, out=rest)


def _blocks(size: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, size, BLOCK)]


def _packed(coarse: Sums, fine: Sums) -> tuple[npt.NDArray[Any], ...]:
    """coarse · 2³⁶ + fine as one whole number, where it fits: the same sum, so the same mean."""
    if coarse.size and max(abs(coarse.min()), abs(coarse.max())) >= 2**26 - 2**17:  # to which `fine` adds less
        return coarse, fine
    both = np.empty(coarse.shape, np.int64)
    flat = both.reshape(-1), coarse.reshape(-1), fine.reshape(-1)
    for block in _blocks(coarse.size):
        packed, whole, rest = (each[block] for each in flat)
        packed[:] = whole
        packed *= int(FINE)
        packed += rest.astype(np.int64)
    return (both,)


def _unpacked(*packed: npt.NDArray[Any]) -> tuple[Sums, Sums]:
    if len(packed) == 2:
        return packed[0], packed[1]
    both = packed[0].reshape(-1)
    coarse, fine = np.empty(packed[0].shape), np.empty(packed[0].shape)
    flat = coarse.reshape(-1), fine.reshape(-1)
    for block in _blocks(both.size):
        whole = (both[block] + int(FINE) // 2) >> 36
        flat[0][block] = whole
        flat[1][block] = both[block] - (whole << 36)
    return coarse, fine
