"""One trial under Tune: an actor that holds a driver. A step of Tune is a round."""

import os
import platform
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ray import tune

from fedray.backends.ray.pool import ActorPool
from fedray.backends.ray.shared_objects import SharedObjectsActor, StudyObjectStore
from fedray.errors import SpecError
from fedray.study.study import Outcome, Study, Trial, last_metrics
from fedray.study.tune import pbt
from fedray.types import Notice, Progress, Row, TeacherProgress
from fedray.user_code import UserCode

if TYPE_CHECKING:
    from fedray.backends.base import MakeBackend
    from fedray.server.driver import Driver

TRIAL_LOCK_TIMEOUT_S = 60
"""Time that an earlier process of the trial, which was killed, has to release the folder."""

NOTE_INTERVAL_S = 1.0
"""Shortest time between two messages about the activity of a trial before its next round."""


@dataclass(frozen=True)
class StudyContext:
    """Arguments that all trials of a study share."""

    study: Study
    part: Mapping[str, float]  # resources of one trial
    shared_objects: SharedObjectsActor
    cache: Path
    command: Sequence[str]
    cwd: str  # folder of the command: paths in a spec are relative to it
    code: UserCode = field(
        default_factory=lambda: UserCode({})
    )  # the modules of the user's that the space names, which arrive with it


class FedTrainable(tune.Trainable):
    """Runs one trial in its own folder. Tune reuses the actor, and with it the workers, for the next trial.

    It reports the rounds of earlier sweeps first, so that Tune's iterations are rounds, and searchers, schedulers
    and loggers see the whole curve. Then it resumes from the last checkpoint. The folder is the checkpoint: Tune's
    own checkpoints serve populations only.
    """

    _rounds: Generator[Row, None, None]

    def setup(self, config: Row, context: StudyContext) -> None:  # type: ignore[override]  # tune.with_parameters
        """Open the first trial of this process. Called by Tune."""
        with suppress(OSError):
            os.chdir(context.cwd)
        self._context = context
        self._noted_at = 0.0
        self._store = StudyObjectStore(context.shared_objects)
        self._pool = ActorPool(context.part, self._store)
        self._open(config)

    def reset_config(self, new_config: Row) -> bool:
        """Open the next trial of this process. Called by Tune."""
        self._close()
        self._open(new_config)
        return True

    def step(self) -> Row:
        """Return the row of the next round. The last one is returned once the run is complete. Called by Tune."""
        try:
            row = next(self._rounds, None)
            if row is not None and row["round"] == self._last:
                for _ in self._rounds:
                    pass
        except SpecError as error:  # a retry would fail too; the sweep's own process records the outcome
            return {**last_metrics([]), "round": self._trial.round, "refused": str(error), "done": True}
        except Exception as error:
            self._record_failure(error)
            raise
        if row is None:
            return {**last_metrics(self._history), "round": self._trial.round, "done": True}
        self._history.append(row)
        return {**row, **last_metrics(self._history), "done": row["round"] == self._last}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save a population's member for others to copy. Called by Tune."""
        pbt.save(self._trial, Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: object) -> None:
        """Continue from a copy of a member, another one or this one. Called by Tune."""
        self._rounds.close()
        pbt.load(Path(str(checkpoint)), self._trial)
        self._history = self._trial.history()
        self._rounds = self._run(replay=False)

    def cleanup(self) -> None:
        """Release the trial and the workers. Called by Tune when the process ends."""
        self._close()
        self._pool.close()

    def _open(self, config: Row) -> None:
        study = self._context.study
        self._trial: Trial = study.trial_of_config(config, self.trial_name).checkout()
        self._is_pending = study.is_pending(self._trial)
        self._last = self._trial.experiment.training.rounds if self._is_pending else self._trial.round
        self._history = list[Row]()
        self._rounds = self._run(replay=not study.is_population)

    def _close(self) -> None:
        self._rounds.close()
        self._trial.storage.release()

    def _run(self, *, replay: bool) -> Generator[Row, None, None]:
        """Yield the rows of earlier rounds if `replay`, then those of new rounds once their checkpoint is stored."""
        trial, study = self._trial, self._context.study
        study.check_shared()
        reported = trial.round
        if self._is_pending:
            trial.start()
        if replay:
            yield from trial.history()
        if not self._is_pending:
            return
        if not study.is_population:
            trial.folder.check(trial.experiment, allow_code_change=study.allow_code_change)
        for result in self._driver().run(self._note):
            if result.round == trial.round:  # the round has a checkpoint
                trial.storage.push()
            if result.round > reported:
                yield result.row
        trial.storage.push()

    def _note(self, event: Progress) -> None:
        """Send the trial's activity to the display, at most once a second; keep notices for the end of the sweep."""
        if isinstance(event, Notice):
            self._context.shared_objects.warn.remote([event.text])
            return
        now = time.monotonic()
        is_last = isinstance(event, TeacherProgress) and event.done == event.total
        if now - self._noted_at > NOTE_INTERVAL_S or is_last:
            self._noted_at = now
            self._context.shared_objects.note.remote(self._trial.name, str(event))

    def _driver(self) -> "Driver":
        from fedray.server.driver import Driver

        trial, context = self._trial, self._context
        return Driver(
            trial.experiment, trial.folder.path, self._make_backend(), context.command, context.cache,
            self._store.read_datasets, TRIAL_LOCK_TIMEOUT_S, context.study.allow_code_change,
        )  # fmt: skip

    def _make_backend(self) -> "MakeBackend | None":
        """Return a backend on this process's workers, or None for the driver's own choice, the serial one."""
        if self._trial.experiment.resources.backend == "serial":
            return None
        from fedray.backends.ray.actors import RayBackend

        return partial(RayBackend, pool=self._pool)

    def _record_failure(self, error: Exception) -> None:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        outcome = Outcome("failed", self._trial.round, reason, platform.node(), traceback.format_exc())
        self._trial.record_outcome(outcome)
