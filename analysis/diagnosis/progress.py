"""Checks of the number of rounds and seeds, and of the gain from communication."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.diagnosis.finding import Finding, shared_conditions
from analysis.stats import MIN_PAIRS
from analysis.text import counted, part_of, points, with_labels

MAX_GAIN = 0.01
"""A curve whose last third is above the third before by more than this has not converged."""
MIN_LATE_GAIN = 0.05
"""A smaller part of the gain from the last third of the bytes is a warning."""
MIN_ROUNDS = 6


def rising_curves(named: pd.DataFrame) -> Iterator[Finding]:
    """Yield the number of settings whose accuracy still rises in the last third of the rounds."""
    gains = named.groupby(["setting", "condition"], observed=True)["gain"].mean().dropna()
    if gains.empty:
        return
    rising = gains[gains > MAX_GAIN]
    runs = named.index[named["gain"].notna()]
    if rising.empty:
        sentence = (
            f"None of {counted(len(gains), 'curve')} is still rising: no last third of the rounds is more than one "
            "point above the third before."
        )
        yield Finding.of("Convergence", sentence, runs)
        return
    setting, condition = rising.sort_values().index[-1]
    sentence = (
        f"{part_of(len(rising), len(gains), 'is', 'are', 'curves')} still rising: the last third of the rounds is up "
        f"to {points(rising.max())} points above the third before ({setting}, {condition}); more rounds may change the "
        "order."
    )
    yield Finding.of("Convergence", sentence, runs, is_warning=True)


def communication(named: pd.DataFrame, rounds: pd.DataFrame) -> Iterator[Finding]:
    """Yield the bytes per point of accuracy, and the gain from the last third of them.

    `named` holds one setting per family.
    """
    runs, where = shared_conditions(named)
    per_point = (runs["bytes"] / (100 * runs["last"])).groupby(runs["family"], observed=True).mean().dropna()
    if per_point.empty:
        return
    costs = with_labels(per_point.sort_values().map(megabytes))
    late = _late_gain(runs, rounds)
    rest = "" if np.isnan(late) else f"; {100 * late:.0f} % of the gain came with the last third of the bytes"
    sentence = f"One point of accuracy{where} costs {costs}{rest}."
    yield Finding.of("Communication", sentence, runs.index, is_warning=late < MIN_LATE_GAIN)


def few_seeds(named: pd.DataFrame) -> Iterator[Finding]:
    """Yield the number of cells with too few seeds for a test."""
    seeds = named.groupby(["setting", "condition"], observed=True)["seed"].nunique()
    few = int((seeds < MIN_PAIRS).sum())
    if not few:
        return
    sentence = (
        f"{part_of(few, len(seeds), 'has', 'have', 'cells')} fewer than {MIN_PAIRS} seeds: "
        "their differences are not tested, and their standard deviations are unreliable."
    )
    yield Finding.of("Seeds", sentence, named.index, is_warning=True)


def megabytes(count: float) -> str:
    """Return a number of bytes in a suitable unit: `12 MB`, `3.4 GB`."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _late_gain(named: pd.DataFrame, rounds: pd.DataFrame) -> float:
    """The fraction of the gain in the last third of the evaluated rounds, mean over runs."""
    curves = rounds[rounds["run"].isin(named.index)].groupby("run", observed=True)["test_accuracy"]
    fractions = [_late_fraction(curve.to_numpy(dtype=float)) for _, curve in curves]
    return float(np.nanmean(fractions)) if np.isfinite(fractions).any() else float("nan")


def _late_fraction(curve: npt.NDArray[np.float64]) -> float:
    """The late fraction of one run's gain in best accuracy so far; NaN for a short curve or without a gain."""
    best = np.maximum.accumulate(curve)
    gain = best[-1] - best[0]
    if len(best) < MIN_ROUNDS or gain <= 0:
        return float("nan")
    return float((best[-1] - best[-1 - len(best) // 3]) / gain)
