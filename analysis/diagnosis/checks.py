"""All checks of a study."""

from collections.abc import Iterator

import pandas as pd

from analysis.diagnosis import clients as client_checks
from analysis.diagnosis import heterogeneity, progress, teachers
from analysis.diagnosis.finding import Finding
from analysis.tables import best_of_families


def diagnose(named: pd.DataFrame, rounds: pd.DataFrame, clients: pd.DataFrame) -> list[Finding]:
    """Return the findings about a study, warnings first.

    `named`: runs as returned by `labels.name_runs` and `outcomes.outcomes`, joined with `outcomes.spent`.
    `rounds`: their evaluated rounds. `clients`: the result of `Records.clients` for some or all of them.
    """
    if named.empty:
        return []
    return sorted(_findings(named, rounds, clients), key=lambda finding: not finding.is_warning)


def _findings(named: pd.DataFrame, rounds: pd.DataFrame, clients: pd.DataFrame) -> Iterator[Finding]:
    best = best_of_families(named)
    yield from progress.few_seeds(named)
    yield from progress.rising_curves(named)
    yield from heterogeneity.accuracy_loss(best)
    yield from client_checks.update_agreement(best)
    yield from client_checks.accuracy_spread(best, clients)
    yield from client_checks.worst_classes(named)
    yield from teachers.teacher_accuracy(named)
    yield from teachers.best_lambda(named)
    yield from progress.communication(best, rounds)
