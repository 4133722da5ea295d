"""Paired differences and how sure one can be of them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ENOUGH = 3
"""Fewer pairs are not tested: their deviation says next to nothing."""
SAME = 1e-9
"""Differences that lie closer together differ by rounding only."""


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of Student's t for paired values: how probable so large a mean is if there is none.

    NaN for fewer than `ENOUGH` pairs, and where all differ by the very same amount, which no t can judge.
    """
    from scipy.special import stdtr  # a quarter of the time to import that scipy.stats takes

    values = np.asarray(differences, dtype=float)
    if len(values) < ENOUGH or np.ptp(values) < SAME:
        return float("nan")
    t = values.mean() / (values.std(ddof=1) / len(values) ** 0.5)
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def holm(ps: Sequence[float]) -> npt.NDArray[np.float64]:
    """Holm's step-down correction for several tests (Scand. J. Stat. 6:65, 1979); NaN stays NaN, and is not counted."""
    values = np.asarray(ps, dtype=float)
    corrected = np.full(len(values), np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
