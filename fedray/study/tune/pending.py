"""What is left to do of a study, as Tune's searcher."""

from dataclasses import dataclass

from fedray.config.experiment import Experiment
from fedray.study.study import Study
from fedray.study.tune.searcher import FixedSearcher, OptunaSearcher


@dataclass(frozen=True)
class PendingTrials:
    """Trials for Tune. `known` ones only tell a scheduler what they did earlier."""

    searcher: FixedSearcher
    experiments: list[Experiment]  # that decide what room a trial needs
    total: int  # trials of the study
    finished: int
    rounds: int  # that are left of all

    @property
    def left(self) -> int:
        """Trials to be run."""
        return self.total - self.finished


def pending_trials(study: Study) -> PendingTrials:
    """The trials that are not finished; or, where a searcher proposes them, as many as are wanted."""
    return _proposed(study) if study.space.search.algorithm == "optuna" else _listed(study)


def _listed(study: Study) -> PendingTrials:
    trials = study.trials()
    left = [trial for trial in trials if study.left(trial)]
    compares = study.space.search.scheduler in ("asha", "median")
    known = [trial for trial in trials if compares and trial not in left and trial.round]
    searcher = FixedSearcher([study.config(trial) for trial in (*known, *left)])
    rounds = sum(trial.experiment.training.rounds - trial.round for trial in left)
    return PendingTrials(searcher, [trial.experiment for trial in left], len(trials), len(trials) - len(left), rounds)


def _proposed(study: Study) -> PendingTrials:
    searcher = OptunaSearcher(study)
    finished = sum(not study.left(trial) for trial in study.kept())
    first = study.trial(study.space.first()).experiment
    return PendingTrials(searcher, [first], finished + searcher.left, finished, searcher.left * first.training.rounds)
