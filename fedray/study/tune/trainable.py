"""One trial under Tune: an actor that holds a driver; a step is a round."""

import os
import platform
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from fedray.backends.ray.pool import ActorPool
from fedray.backends.ray.shared_objects import StudyObjectStore
from fedray.cli.progress import progress_line
from fedray.errors import SpecError
from fedray.study.study import Outcome, Study, Trial, last_metrics
from fedray.study.tune import pbt
from fedray.types import Progress, RoundResult, Row, TeacherProgress

TRIAL_LOCK_TIMEOUT_S = 60
"""Seconds to wait for a folder's former run, which was killed, to be gone."""


@dataclass(frozen=True)
class StudyContext:
    """What every trial of a study is given."""

    study: Study
    part: Mapping[str, float]  # of the cluster, for one trial
    shared_objects: Any  # the actor `Commons`
    cache: Path
    command: Sequence[str]
    cwd: str  # where it was given: a spec's paths are relative to it


class FedTrainable(tune.Trainable):
    """Runs one point of the space in its own folder. The actors that it drives outlive it where Tune lets it.

    First it reports the rounds that the folder has from earlier, so that Tune's iterations are rounds, and
    searchers, schedulers and loggers see the whole curve; then it goes on from the last checkpoint. Tune's
    own checkpoints are not needed for that: the folder is one.
    """

    _rounds: Generator[Row, None, None]

    def setup(self, config: Row, context: StudyContext) -> None:  # type: ignore[override]  # tune.with_parameters' way
        """Tune's: the first trial of this process."""
        with suppress(OSError):
            os.chdir(context.cwd)
        self._context = context
        self._noted = 0.0
        self._store = StudyObjectStore(context.shared_objects)
        self._pool = ActorPool(context.part, self._store)
        self._open(config)

    def reset_config(self, new_config: Row) -> bool:
        """Tune's: the next trial of this process."""
        self._leave()
        self._open(new_config)
        return True

    def step(self) -> Row:
        """Tune's: a round. The last one is reported when all is on disk."""
        try:
            row = next(self._rounds, None)
            if row is not None and row["round"] == self._last:
                for _ in self._rounds:
                    pass
        except SpecError as error:  # would only happen again; kept by who started the sweep, who surely has the folder
            return {**last_metrics([]), "round": self._kept.round, "refused": str(error), "done": True}
        except Exception as error:
            self._fail(error)
            raise
        if row is None:
            return {**last_metrics(self._history), "round": self._kept.round, "done": True}
        self._history.append(row)
        return {**row, **last_metrics(self._history), "done": row["round"] == self._last}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune's, for a population: what another member needs to go on from here."""
        pbt.save(self._kept, Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Tune's, for a population: go on from another member's round, or from this one's own."""
        self._rounds.close()
        pbt.load(Path(checkpoint), self._kept)
        self._history = self._kept.history()
        self._rounds = self._run(self._kept, replay=False)

    def cleanup(self) -> None:
        """Tune's: the process ends."""
        self._leave()
        self._pool.close()

    def _open(self, config: Row) -> None:
        self._kept = self._context.study.of_config(config, self.trial_name).checkout()
        self._going_on = self._context.study.left(self._kept)
        self._last = self._kept.experiment.training.rounds if self._going_on else self._kept.round
        self._history = list[Row]()
        self._rounds = self._run(self._kept, replay=not self._context.study.is_population)

    def _leave(self) -> None:
        self._rounds.close()
        self._kept.storage.leave()

    def _run(self, kept: Trial, *, replay: bool) -> Generator[Row, None, None]:
        self._context.study.check_shared()
        told = kept.round
        if self._going_on:
            kept.begin()
        if replay:
            yield from kept.history()
        if not self._going_on:
            return
        if not self._context.study.is_population:
            kept.folder.check(kept.experiment, resume=True)
        for event in self._driver(kept).run():
            if not isinstance(event, RoundResult):
                self._note(kept, event)
                continue
            if event.round == kept.round:  # it has a checkpoint
                kept.storage.push()
            if event.round > told:
                yield event.row
        kept.storage.push()

    def _note(self, kept: Trial, event: Progress) -> None:
        """Once a second, and at the end: nobody reads faster."""
        now = time.monotonic()
        if now - self._noted > 1 or (isinstance(event, TeacherProgress) and event.done == event.total):
            self._noted = now
            self._context.shared_objects.note.remote(kept.name, progress_line(event))

    def _driver(self, kept: Trial) -> Any:
        from fedray.server.driver import Driver

        make_backend: Any = self._make_backend(kept)
        context = self._context
        return Driver(
            kept.experiment, kept.folder.path, make_backend, context.command, context.cache,
            self._store.read_datasets, TRIAL_LOCK_TIMEOUT_S,
        )  # fmt: skip

    def _make_backend(self, kept: Trial) -> Any:
        if kept.experiment.resources.backend == "serial":
            from fedray.backends.serial import SerialBackend

            return SerialBackend
        from fedray.backends.ray.actors import RayBackend

        return partial(RayBackend, pool=self._pool)

    def _fail(self, error: Exception) -> None:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        self._kept.end(Outcome("failed", self._kept.round, reason, platform.node(), traceback.format_exc()))
