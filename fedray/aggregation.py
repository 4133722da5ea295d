"""A weighted mean of weights whose bits do not depend on the order of addition."""

from typing import Any

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


class ExactMean:
    """Fold updates in, in any order, on any node; `mean` gives the same bits.

    Floating-point sums depend on their order, sums of whole numbers do not. So each weight·x is
    rounded once to two whole numbers (coarse and fine) and those are added. Memory: 16 bytes for
    each parameter, however many updates there are.
    """

    def __init__(self) -> None:
        self.total = 0
        self._coarse: dict[str, npt.NDArray[np.float64]] = {}
        self._fine: dict[str, npt.NDArray[np.float64]] = {}

    def add(self, weights: Weights, weight: int) -> None:
        """Fold in one update that counts `weight` times."""
        self.total += weight
        for name, array in weights.items():
            fine = array.astype(np.float64)
            fine *= weight * COARSE
            coarse = np.rint(fine)
            fine -= coarse
            fine *= FINE
            np.rint(fine, out=fine)
            self._accumulate(name, coarse, fine)

    def merge(self, other: "ExactMean") -> None:
        """Fold in all that another mean has folded in."""
        self.total += other.total
        for name, coarse in other._coarse.items():
            self._accumulate(name, coarse, other._fine[name])

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

    def _accumulate(self, name: str, coarse: npt.NDArray[np.float64], fine: npt.NDArray[np.float64]) -> None:
        if name in self._coarse:
            self._coarse[name] += coarse
            self._fine[name] += fine
        else:
            self._coarse[name], self._fine[name] = coarse.copy(), fine.copy()

    def _mean(self, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        mean = (self._coarse[name] + self._fine[name] / FINE) / COARSE / self.total + 0.0  # which makes -0 a 0
        return np.asarray(np.rint(mean) if np.issubdtype(dtype, np.integer) else mean).astype(dtype)


def _packed(coarse: npt.NDArray[np.float64], fine: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], ...]:
    """coarse · 2³⁶ + fine as one whole number, where it fits: the same sum, so the same mean."""
    carry = np.rint(fine / FINE)
    coarse, fine = np.asarray(coarse + carry), np.asarray(fine - carry * FINE)
    if np.abs(coarse).max(initial=0) >= 2**26:
        return coarse, fine
    return (np.asarray(coarse.astype(np.int64) * int(FINE) + fine.astype(np.int64)),)


def _unpacked(*packed: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if len(packed) == 2:
        return packed[0], packed[1]
    coarse = np.asarray((packed[0] + int(FINE) // 2) // int(FINE))
    return coarse.astype(np.float64), np.asarray(packed[0] - coarse * int(FINE)).astype(np.float64)
