"""Do clients agree, and is anybody left behind?"""

from collections.abc import Iterator

import pandas as pd

from analysis.diagnosis.finding import Finding, alike
from analysis.text import counted, each, listed, points

APART = 0.5
"""Below this mean cosine to their mean, clients' updates undo more of each other than they share."""


def disagreement(named: pd.DataFrame) -> Iterator[Finding]:
    """Cosine and drift of client updates, where they agree least. `named` holds one setting per family."""
    known = named[named["cosine"].notna()]
    if known.empty:
        return
    found = known.groupby(["condition", "family"], observed=True)["cosine"].mean()
    condition = str(found.groupby("condition", observed=True).min().idxmin())
    own = known[known["condition"] == condition].groupby("family", observed=True)
    cosine, drift = own["cosine"].mean().sort_values(), own["drift"].mean()
    where = f" on {condition}, where they agree least," if known["condition"].nunique() > 1 else ""
    cosines = each(cosine.map("{:.2f}".format))
    far = f"{drift.max():.1f} times its length ({drift.idxmax()})"
    sentence = (
        f"Client updates{where} have a mean cosine to their mean of {cosines}; they drift from it by up to {far}."
    )
    runs = known.index[known["condition"] == condition]
    yield Finding.of("Clients' updates", sentence, runs, warns=bool(cosine.min() < APART))


def spread(named: pd.DataFrame, clients: pd.DataFrame) -> Iterator[Finding]:
    """How unequal clients' own accuracies are. `clients` as `Records.clients` gives them."""
    if clients.empty:
        return
    shared, where = alike(named)
    families = clients["run"].astype(str).map(shared["family"].astype(str))
    own = clients.assign(family=families)[families.notna()]
    deviations = own.groupby(["run", "family"], observed=True)["train_accuracy"].std().dropna()
    if deviations.empty:
        return
    by_family = deviations.groupby("family").mean().sort_values()
    deviate = each(by_family.map(points), "points", "with")
    sentence = f"Clients' accuracies on their own examples in the last round{where} deviate by {deviate}."
    yield Finding.of("Clients' spread", sentence, own["run"].astype(str).unique(), warns=bool(by_family.max() > 0.1))


def left_behind(named: pd.DataFrame) -> Iterator[Finding]:
    """Cells in whose rounds some class or other is hardly ever right."""
    worst = named.groupby(["condition", "setting"], observed=True)["worst_class"].mean().dropna()
    lost = worst[worst < 0.01]
    if lost.empty:
        return
    where = listed(dict.fromkeys(map(str, lost.index.get_level_values("condition"))))
    condition, setting = worst.sort_values().index[-1]
    sentence = (
        f"In {len(lost)} of {counted(len(worst), 'cell')} the worst class of a round is under 1 % on average "
        f"(on {where}); in the best cell it has {points(worst.max())} % ({setting}, {condition})."
    )
    yield Finding.of("Worst class", sentence, named.index, warns=True)
