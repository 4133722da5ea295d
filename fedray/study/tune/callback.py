"""Tune's callback of a sweep: shows the trials on the display and records how each ended."""

import time
from collections.abc import Sequence
from typing import TypeAlias

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial as TuneTrial

from fedray.backends.ray.shared_objects import SharedObjectsActor
from fedray.backends.ray.supervision import supervision
from fedray.errors import RayLostError
from fedray.study.study import Outcome, Study, Trial
from fedray.study.tune.display import SweepDisplay
from fedray.types import Row

TuneTrials: TypeAlias = list[TuneTrial]

NOTES_INTERVAL_S = 1.0
"""Time between two queries for what trials do before their next round."""


class ProgressCallback(tune.Callback):
    """Runs in the process that started the sweep."""

    def __init__(
        self, study: Study, display: SweepDisplay, known: Sequence[Trial], shared_objects: SharedObjectsActor
    ) -> None:
        """`known` trials are those that the space lists or that are on disk."""
        self._study, self._display, self._known = study, display, known
        self._trials: dict[str, Trial] = {}  # by Tune's id
        self._replayed: set[str] = set()  # finished trials, which only report their rounds to the scheduler
        self._shared_objects = shared_objects
        self._notes: ray.ObjectRef[dict[str, str]] | None = None
        self._notes_read_at = time.monotonic()
        self._started_at: dict[str, float] = {}
        self.startup_seconds: dict[str, float] = {}
        """Seconds from a trial's start to the start of its first round, by its name."""

    def __getstate__(self) -> Row:
        """Tune pickles its callbacks, and a live display cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: TuneTrials, trial: TuneTrial, **info: object) -> None:
        """Called by Tune."""
        ours = self._trials[trial.trial_id] = self._study.trial_of_config(trial.config, str(trial))
        self._started_at[trial.trial_id] = time.monotonic()
        if not self._study.is_pending(ours):
            self._replayed.add(trial.trial_id)
            return
        self._display.start(ours.name, ours.label, ours.experiment.training.rounds, ours.round)

    def on_trial_result(self, iteration: int, trials: TuneTrials, trial: TuneTrial, result: Row, **_: object) -> None:
        """Called by Tune."""
        ours = self._trials[trial.trial_id]
        if "seconds" not in result or trial.trial_id in self._replayed:
            return
        if ours.name not in self.startup_seconds:
            elapsed = time.monotonic() - self._started_at[trial.trial_id] - result["seconds"]
            self.startup_seconds[ours.name] = round(max(0.0, elapsed), 3)
        self._display.round(ours.name, result)

    def on_trial_complete(self, iteration: int, trials: TuneTrials, trial: TuneTrial, **info: object) -> None:
        """Called by Tune when a trial ran all its rounds, was stopped by the scheduler, or was refused."""
        ours = self._trials[trial.trial_id]
        if trial.trial_id in self._replayed:
            return
        ours.refresh()
        scheduler = self._study.space.search.scheduler
        if refused := trial.last_result.get("refused"):
            ours.record_outcome(Outcome("failed", ours.round, refused, trial.last_result.get("hostname", "")))
        elif not ours.folder.finished and ours.outcome is None and scheduler != "none":
            ours.record_outcome(Outcome("stopped", ours.round, scheduler))
        self._end(ours)

    def on_trial_recover(self, iteration: int, trials: TuneTrials, trial: TuneTrial, **info: object) -> None:
        """Called by Tune when a trial failed and will be retried."""
        ours = self._started(trial)
        if trial.trial_id in self._replayed:
            return
        ours.refresh()
        self._display.retry(ours.name, self._failure(ours, trial).reason)
        del self._trials[trial.trial_id]  # until it starts again

    def on_trial_error(self, iteration: int, trials: TuneTrials, trial: TuneTrial, **info: object) -> None:
        """Called by Tune when a trial failed for the last time."""
        ours = self._started(trial)
        if trial.trial_id in self._replayed:
            return
        ours.refresh()
        ours.record_outcome(self._failure(ours, trial))
        self._end(ours)

    def on_step_end(self, iteration: int, trials: TuneTrials, **info: object) -> None:
        """Called by Tune ten times a second. Raises RayLostError where Ray is lost."""
        supervision.check()
        self._read_notes()
        self._display.tick()

    def _read_notes(self) -> None:
        """Show what trials do before their next round. Queried once a second, without waiting for the reply."""
        if self._notes is None and time.monotonic() - self._notes_read_at > NOTES_INTERVAL_S:
            self._notes = self._shared_objects.notes.remote()
        if self._notes is None or not ray.wait([self._notes], timeout=0)[0]:
            return
        try:
            notes = ray.get(self._notes)
        except RayActorError:
            supervision.report(RayLostError("the actor with the study's shared data was lost", can_restart=True))
            raise
        for name, activity in notes.items():
            self._display.note(name, activity)
        self._notes, self._notes_read_at = None, time.monotonic()

    def _started(self, trial: TuneTrial) -> Trial:
        """Return our trial of Tune's, which has not started if its process was lost before."""
        if trial.trial_id not in self._trials:
            self.on_trial_start(0, [], trial)
        return self._trials[trial.trial_id]

    def _end(self, ours: Trial) -> None:
        outcome = ours.outcome
        self._display.end(ours.name, ours.state, outcome.reason if outcome else "")
        trials = {trial.name: trial for trial in (*self._known, *self._trials.values())}
        self._study.write_table(list(trials.values()), self.startup_seconds)

    def _failure(self, ours: Trial, trial: TuneTrial) -> Outcome:
        """Return the outcome that the trial recorded itself, or Ray's error if its process is lost."""
        if ours.outcome is not None:
            return ours.outcome
        error = str(trial.get_error() or "").strip()
        return Outcome("failed", ours.round, "its process was lost", traceback=error)
