"""The trials of a study that a sweep still has to run, as a searcher of Tune."""

from dataclasses import dataclass

from fedray.config.experiment import Experiment
from fedray.study.study import Study
from fedray.study.tune.display import SweepSize
from fedray.study.tune.searcher import FixedSearcher, OptunaSearcher


@dataclass(frozen=True)
class PendingTrials:
    """The trials that a sweep runs."""

    searcher: FixedSearcher
    experiments: list[Experiment]  # their resources decide how many trials run at once
    size: SweepSize

    @property
    def count(self) -> int:
        """Number of trials to run."""
        return self.size.total - self.size.finished


def pending_trials(study: Study) -> PendingTrials:
    """Return the unfinished trials of the space, or the number of proposals that the search specifies."""
    return _proposed(study) if study.space.search.algorithm == "optuna" else _listed(study)


def _listed(study: Study) -> PendingTrials:
    """Return the trials that the space lists.

    A scheduler that compares trials gets the rounds of finished ones too: they run as replays.
    """
    trials = study.trials()
    pending = [trial for trial in trials if study.is_pending(trial)]
    compares = study.space.search.scheduler in ("asha", "median")
    replays = [trial for trial in trials if compares and trial not in pending and trial.round]
    searcher = FixedSearcher([study.tune_config(trial) for trial in (*replays, *pending)])
    rounds = sum(trial.experiment.training.rounds - trial.round for trial in pending)
    size = SweepSize(len(trials), len(trials) - len(pending), rounds)
    return PendingTrials(searcher, [trial.experiment for trial in pending], size)


def _proposed(study: Study) -> PendingTrials:
    searcher = OptunaSearcher(study)
    finished = sum(not study.is_pending(trial) for trial in study.existing_trials())
    first = study.trial(study.space.first()).experiment
    size = SweepSize(finished + searcher.count, finished, searcher.count * first.training.rounds)
    return PendingTrials(searcher, [first], size)
