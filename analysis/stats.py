"""Tests of paired differences."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MIN_PAIRS = 3
"""Minimum number of pairs for a test: the standard deviation of fewer is unreliable."""
ROUNDING_ERROR = 1e-9
"""Differences whose range is below this one are equal except for rounding."""


def paired_p(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Student's t-test of paired values: the null hypothesis is a mean of zero.

    NaN for fewer than MIN_PAIRS values, and if all values are equal.
    """
    from scipy.special import stdtr  # scipy.stats would take four times as long to import

    values = np.asarray(differences, dtype=float)
    if len(values) < MIN_PAIRS or np.ptp(values) < ROUNDING_ERROR:
        return float("nan")
    t = values.mean() / (values.std(ddof=1) / len(values) ** 0.5)
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def holm(ps: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the p-values with Holm's step-down correction (Scand. J. Stat. 6:65, 1979). NaNs are not counted."""
    values = np.asarray(ps, dtype=float)
    corrected = np.full(len(values), np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
