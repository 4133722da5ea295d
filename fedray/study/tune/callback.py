"""What happens to the trials, as Tune tells it: shown on the board, and kept with each trial."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune

from fedray.cli.sweep_progress import SweepProgress
from fedray.study.study import Outcome, Study
from fedray.study.study import Trial as Kept


class ProgressCallback(tune.Callback):
    """Tune's callback, in the process that started the sweep."""

    def __init__(self, study: Study, board: SweepProgress, known_before: Sequence[Kept], shared_objects: Any) -> None:
        """`known_before` are the trials that the file lists or that are on disk."""
        self._study, self._board, self._known_before = study, board, known_before
        self._kept: dict[str, Kept] = {}
        self._shared_objects = shared_objects
        self._asked: Any = None
        self._read = time.monotonic()
        self._started: dict[str, float] = {}
        self._known: set[str] = set()  # trials that only tell the scheduler what they did earlier
        self.startup: dict[str, float] = {}
        """Of each trial, the seconds from its start until its first round began."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of its callbacks that we have no use for, and a live display cannot be copied."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tune's."""
        kept = self._kept[trial.trial_id] = self._study.of_config(trial.config, str(trial))
        self._started[trial.trial_id] = time.monotonic()
        if not self._study.left(kept):
            self._known.add(trial.trial_id)
            return
        self._board.start(kept.name, kept.label, kept.experiment.training.rounds, kept.round)

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        """Tune's."""
        kept = self._kept[trial.trial_id]
        if "seconds" not in result or trial.trial_id in self._known:
            return
        if kept.name not in self.startup:
            waited = time.monotonic() - self._started[trial.trial_id] - result["seconds"]
            self.startup[kept.name] = round(max(0.0, waited), 3)
        self._board.round(kept.name, result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tune's: it has run all its rounds, was stopped by the scheduler, or cannot be run."""
        kept = self._kept[trial.trial_id]
        if trial.trial_id in self._known:
            return
        kept.look()
        scheduler = self._study.space.search.scheduler
        if refused := trial.last_result.get("refused"):
            kept.end(Outcome("failed", kept.round, refused, trial.last_result.get("hostname", "")))
        elif not kept.folder.finished and kept.outcome is None and scheduler != "none":
            kept.end(Outcome("stopped", kept.round, scheduler))
        self._end(kept)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tune's: it has failed and is tried again."""
        kept = self._started_or_not(trial)
        if trial.trial_id in self._known:
            return
        kept.look()
        self._board.again(kept.name, self._reason(kept, trial).by)
        del self._kept[trial.trial_id]  # until it starts again

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tune's: it has failed for the last time."""
        kept = self._started_or_not(trial)
        if trial.trial_id in self._known:
            return
        kept.look()
        kept.end(self._reason(kept, trial))
        self._end(kept)

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Tune's: ten times a second."""
        self._read_notes()
        self._board.tick()

    def _read_notes(self) -> None:
        """Of what trials do before a round; asked once a second, and not waited for."""
        if self._asked is None and time.monotonic() - self._read > 1:
            self._asked = self._shared_objects.notes.remote()
        if self._asked is None or not ray.wait([self._asked], timeout=0)[0]:
            return
        for name, text in ray.get(self._asked).items():
            self._board.note(name, text)
        self._asked, self._read = None, time.monotonic()

    def _started_or_not(self, trial: Any) -> Kept:
        """A process may be lost before its trial starts."""
        if trial.trial_id not in self._kept:
            self.on_trial_start(0, (), trial)
        return self._kept[trial.trial_id]

    def _end(self, kept: Kept) -> None:
        outcome = kept.outcome
        self._board.end(kept.name, kept.state, outcome.by if outcome else "")
        trials = {trial.name: trial for trial in (*self._known_before, *self._kept.values())}
        self._study.write_table(list(trials.values()), self.startup)

    def _reason(self, kept: Kept, trial: Any) -> Outcome:
        """What the trial itself has left behind; or, where its process is gone, what Ray says of that."""
        if kept.outcome is not None:
            return kept.outcome
        said = str(trial.get_error() or "").strip()
        return Outcome("failed", kept.round, "its process was lost", traceback=said)
