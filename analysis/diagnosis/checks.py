"""All that is looked for in a study."""

from collections.abc import Iterator

import pandas as pd

from analysis.diagnosis import clients as of_clients
from analysis.diagnosis import heterogeneity, progress, teaching
from analysis.diagnosis.finding import Finding
from analysis.tables import best_of_families


def diagnose(named: pd.DataFrame, rounds: pd.DataFrame, clients: pd.DataFrame) -> list[Finding]:
    """The failure signatures of a study, in the order in which they should be read; warnings first.

    `named` as `labels.name_runs` and `outcomes.outcomes` give it, with `outcomes.spent` joined; `rounds` are evaluated
    ones of these runs; `clients` as `Records.clients` gives them of some or all.
    """
    if named.empty:
        return []
    return sorted(_found(named, rounds, clients), key=lambda finding: not finding.warns)


def _found(named: pd.DataFrame, rounds: pd.DataFrame, clients: pd.DataFrame) -> Iterator[Finding]:
    best = best_of_families(named)
    yield from progress.few_seeds(named)
    yield from progress.not_flat(named)
    yield from heterogeneity.falling(best)
    yield from of_clients.disagreement(best)
    yield from of_clients.spread(best, clients)
    yield from of_clients.left_behind(named)
    yield from teaching.teacher_or_proxy(named)
    yield from teaching.lambda_at_edge(named)
    yield from progress.heavy_communication(best, rounds)
