"""Did the runs go on long enough, and was what they sent worth it?"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.diagnosis.finding import Finding, alike
from analysis.stats import ENOUGH
from analysis.text import counted, each, points

RISING = 0.01
"""A curve whose last third lies more than a point above the third before has not come to its end."""


def not_flat(named: pd.DataFrame) -> Iterator[Finding]:
    """Which settings still gain in the last third of their rounds."""
    gains = named.groupby(["setting", "condition"], observed=True)["gain"].mean().dropna()
    if gains.empty:
        return
    rising = gains[gains > RISING]
    runs = named.index[named["gain"].notna()]
    if rising.empty:
        sentence = (
            f"None of {counted(len(gains), 'curve')} has a last third that lies more than a point above the one before."
        )
        yield Finding.of("Curves", sentence, runs)
        return
    setting, condition = rising.sort_values().index[-1]
    verb = "is" if len(rising) == 1 else "are"
    sentence = (
        f"{len(rising)} of {counted(len(gains), 'curve')} {verb} not flat yet: the last third of the rounds lies up to "
        f"{points(rising.max())} points above the one before ({setting}, {condition}); "
        "more rounds may change the order."
    )
    yield Finding.of("Curves", sentence, runs, warns=True)


def heavy_communication(named: pd.DataFrame, rounds: pd.DataFrame) -> Iterator[Finding]:
    """Bytes per point of accuracy, and what the last third of them brought. `named` holds one setting per family."""
    own, where = alike(named)
    per_point = (own["bytes"] / (100 * own["last"])).groupby(own["family"], observed=True).mean().dropna()
    if per_point.empty:
        return
    costs = each(per_point.sort_values().map(megabytes), joint="with")
    late = _brought_late(own, rounds)
    rest = "" if np.isnan(late) else f"; the last third of the bytes brought {100 * late:.0f} % of what was gained"
    sentence = f"A point of accuracy{where} costs {costs}, down and up{rest}."
    yield Finding.of("Communication", sentence, own.index, warns=late < 0.05)


def few_seeds(named: pd.DataFrame) -> Iterator[Finding]:
    """Whether differences can be tested at all."""
    seeds = named.groupby(["setting", "condition"], observed=True)["seed"].nunique()
    if seeds.min() >= ENOUGH:
        return
    short = int((seeds < ENOUGH).sum())
    sentence = (
        f"{short} of {counted(len(seeds), 'cell')} {'rests' if short == 1 else 'rest'} on fewer than {ENOUGH} seeds: "
        "their differences are not tested, and their deviations say little."
    )
    yield Finding.of("Seeds", sentence, named.index, warns=True)


def megabytes(count: float) -> str:
    """`12 MB`, `3.4 GB`."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _brought_late(named: pd.DataFrame, rounds: pd.DataFrame) -> float:
    """The share of the gain, over all runs, that came in the last third of their evaluated rounds."""
    own = rounds[rounds["run"].isin(named.index)].groupby("run", observed=True)["test_accuracy"]
    shares = [_late_share(curve.to_numpy(dtype=float)) for _, curve in own]
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else float("nan")


def _late_share(curve: npt.NDArray[np.float64]) -> float:
    """Of the best so far, so that swings do not count twice; NaN for fewer than six rounds or no gain."""
    best = np.maximum.accumulate(curve)
    gained = best[-1] - best[0]
    return float((best[-1] - best[-1 - len(best) // 3]) / gained) if len(best) >= 6 and gained > 0 else float("nan")
