"""`fedray.run`: one experiment from Python, to its end."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedray.config.experiment import Experiment
from fedray.models.weights import WeightsFile
from fedray.results.loader import Results, load_results
from fedray.results.run_folder import RunFolder
from fedray.results.storage import storage_of
from fedray.study.session import Session
from fedray.types import RoundResult, Weights

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FinishedRun:
    """The results of one run. Tables are read when they are first used."""

    location: str
    """Its folder or URI."""

    @property
    def folder(self) -> Path:
        """The folder of the run, or of the local copy of its URI."""
        return storage_of(self.location).folder

    @cached_property
    def results(self) -> Results:
        """All tables; `results.classes`, `results.faults`, ..."""
        return load_results(self.location)

    @property
    def rounds(self) -> "pd.DataFrame":
        """One row per round: rounds.csv."""
        return self.results.rounds

    @property
    def clients(self) -> "pd.DataFrame":
        """One row per round and client of its cohort: clients.csv."""
        return self.results.clients

    @cached_property
    def weights(self) -> Weights:
        """The final proxy's parameters and buffers, by their `state_dict` names."""
        storage_of(self.location).pull()
        return WeightsFile(RunFolder(self.folder).model).read()


def run(
    experiment: Experiment,
    results: str | Path,
    *,
    resume: bool = True,
    verify_data: bool = False,
    allow_code_change: bool = False,
    on_round: Callable[[RoundResult], None] | None = None,
) -> FinishedRun:
    """Run one experiment into a folder or URI, and return its results; `on_round` is called after each round.

    A finished run of the same spec is not repeated. The options are those of `session.rounds`. Raises SpecError for a
    spec that cannot run, RunError if clients fail.
    """
    with Session(verify_data=verify_data, allow_code_change=allow_code_change) as session:
        for result in session.run(experiment, results, resume=resume):
            if on_round is not None:
                on_round(result)
    return FinishedRun(str(results))
