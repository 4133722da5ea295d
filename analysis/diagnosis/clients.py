"""Checks of the agreement of clients and of clients or classes that are left behind."""

from collections.abc import Iterator

import pandas as pd

from analysis.diagnosis.finding import Finding, shared_conditions
from analysis.text import counted, listed, points, with_labels

MIN_COSINE = 0.5
"""Below this mean cosine to their mean, client updates cancel each other more than they add up."""
MAX_STD = 0.1
"""A standard deviation of accuracy across clients above this one is a warning."""
MIN_CLASS_ACCURACY = 0.01


def update_agreement(named: pd.DataFrame) -> Iterator[Finding]:
    """Yield cosine and drift of client updates in the condition with the lowest cosine.

    `named` holds one setting per family.
    """
    known = named[named["cosine"].notna()]
    if known.empty:
        return
    cosines = known.groupby(["condition", "family"], observed=True)["cosine"].mean()
    condition = str(cosines.groupby("condition", observed=True).min().idxmin())
    rows = known[known["condition"] == condition]
    families = rows.groupby("family", observed=True)
    cosine, drift = families["cosine"].mean().sort_values(), families["drift"].mean()
    where = f" on {condition}, where it is lowest," if known["condition"].nunique() > 1 else ""
    sentence = (
        f"The mean cosine between client updates and their mean{where} is {with_labels(cosine.map('{:.2f}'.format))}; "
        f"their drift is up to {drift.max():.1f} times the length of the mean ({drift.idxmax()})."
    )
    yield Finding.of("Agreement of client updates", sentence, rows.index, is_warning=bool(cosine.min() < MIN_COSINE))


def accuracy_spread(named: pd.DataFrame, clients: pd.DataFrame) -> Iterator[Finding]:
    """Yield the standard deviation of train accuracy across clients. `clients`: the result of `Records.clients`."""
    if clients.empty:
        return
    shared, where = shared_conditions(named)
    families = clients["run"].astype(str).map(shared["family"].astype(str))
    rows = clients.assign(family=families)[families.notna()]
    stds = rows.groupby(["run", "family"], observed=True)["train_accuracy"].std().dropna()
    if stds.empty:
        return
    by_family = stds.groupby("family").mean().sort_values()
    values = with_labels(by_family.map(points), "points")
    sentence = f"The standard deviation of train accuracy across clients in the last round{where} is {values}."
    runs = rows["run"].astype(str).unique()
    yield Finding.of("Accuracy across clients", sentence, runs, is_warning=bool(by_family.max() > MAX_STD))


def worst_classes(named: pd.DataFrame) -> Iterator[Finding]:
    """Yield the cells in which the worst class of a round is almost never predicted correctly."""
    accuracies = named.groupby(["condition", "setting"], observed=True)["worst_class"].mean().dropna()
    lost = accuracies[accuracies < MIN_CLASS_ACCURACY]
    if lost.empty:
        return
    where = listed(dict.fromkeys(map(str, lost.index.get_level_values("condition"))))
    condition, setting = accuracies.sort_values().index[-1]
    sentence = (
        f"In {len(lost)} of {counted(len(accuracies), 'cell')} the mean accuracy of a round's worst class is under 1 % "
        f"(on {where}); the highest one is {points(accuracies.max())} % ({setting}, {condition})."
    )
    yield Finding.of("Worst class", sentence, named.index, is_warning=True)
