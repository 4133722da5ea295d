"""A study on disk: the trials of a space, their state, and how each ended.

results/STUDY/LABEL-KEY/                  a trial: the folder of its run, found by KEY whatever its label is now
results/STUDY/LABEL-KEY/assignment.json   its value for each axis
results/STUDY/LABEL-KEY/outcome.json      why the trial ended before its last round; removed when it starts again
results/STUDY/trials.csv                  a row per trial
results/STUDY/study.json                  the format, and the space as the last sweep read it
results/STUDY/tune/                       Tune's own files: TensorBoard's events
"""

import csv
import io
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from filelock import Timeout

from fedray.config.experiment import Experiment
from fedray.config.loader import Run, Space
from fedray.config.space import Assignment, contains
from fedray.config.yaml_files import flatten
from fedray.errors import SpecError
from fedray.files import replace_text
from fedray.locks import RESULTS_REMEDY, locked
from fedray.results.damage import damage, valid_rows
from fedray.results.loader import last_k, last_k_accuracy, read_json, read_rows
from fedray.results.mixtures import identity_columns
from fedray.results.run_folder import FORMAT, RunFolder, check_format
from fedray.results.storage import Storage, storage_of
from fedray.types import Row

LARGE_FILES = "*checkpoint/*.safetensors"
"""Files that only the process of a trial reads; reading the study does not download them."""

State: TypeAlias = Literal["finished", "damaged", "stopped", "failed", "started", "pending"]
"""A damaged trial has finished, and lacks files or rows; it does not run again until its folder is deleted."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended before its last round."""

    state: Literal["stopped", "failed"]
    round: int
    reason: str  # the scheduler that stopped it, or the error in one line
    node: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    name: str
    label: str
    experiment: Experiment
    assignment: Assignment
    storage: Storage

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.storage.folder)

    @property
    def round(self) -> int:
        """Number of finished rounds. Rounds after the last checkpoint do not count: a resume repeats them."""
        rounds = self.experiment.training.rounds
        return rounds if self.folder.finished else self.folder.resumable_from

    @property
    def outcome(self) -> Outcome | None:
        """How the trial ended early; None if it did not."""
        try:
            return Outcome(**read_json(self.folder.path / "outcome.json", []))
        except TypeError:
            return None

    def record_outcome(self, outcome: Outcome) -> None:
        """Write how the trial ended early."""
        self.storage.write("outcome.json", json.dumps(asdict(outcome), indent=2))

    def start(self) -> None:
        """Write the assignment and remove an earlier outcome: the trial starts, or starts again."""
        self.folder.make()
        replace_text(self.folder.path / "assignment.json", json.dumps(self.assignment))
        (self.folder.path / "outcome.json").unlink(missing_ok=True)
        self.storage.push()

    def checkout(self) -> "Trial":
        """Check the trial out onto this node, with all earlier results."""
        storage = self.storage.working_copy()
        storage.pull()
        return replace(self, storage=storage)

    def refresh(self) -> None:
        """Download the files that the trial's process has uploaded from its node."""
        self.storage.pull(LARGE_FILES)

    @property
    def state(self) -> State:
        """State of the trial on disk."""
        if self.folder.finished:
            return "damaged" if self.damage else "finished"
        if (outcome := self.outcome) is not None:
            return outcome.state
        return "started" if self.round else "pending"

    @cached_property
    def damage(self) -> str:
        """A clause on the damaged file of a finished trial; empty if its files are whole or it has not finished."""
        return damage(self.folder.path, self.experiment.training.rounds) if self.folder.finished else ""

    def history(self) -> list[Row]:
        """Return the rows of rounds.csv up to the last checkpoint, numbers parsed, empty cells left out.

        A damaged trial has none: its metrics would be those of an earlier round.
        """
        rows = [] if self.damage else valid_rows(self.folder.path / "rounds.csv")
        return [row for row in rows if row["round"] <= self.round]

    def faults(self) -> list[str]:
        """Return the kind of each fault that the trial recovered from."""
        return [row["fault"] for row in read_rows(self.folder.path / "faults.csv") if "fault" in row]


class Study:
    """The trials of a space below a folder of results."""

    def __init__(
        self, space: Space, results: str | Path, *, allow_single: bool = False, allow_code_change: bool = False
    ) -> None:
        """`allow_single`: accept one experiment without axes; its folder is that of `fedray run`.

        `allow_code_change`: continue unfinished trials that were started with other code.
        """
        if not (space.axes or allow_single):
            raise SpecError(f"{space.path} is one experiment, not a space of them: use fedray run.")
        self.space, self.results, self.allow_code_change = space, results, allow_code_change
        self.storage = storage_of(results).below(space.path.stem)
        self.folder = self.storage.folder
        self._final_rows: dict[str, Row] = {}  # rows of trials.csv that cannot change any more
        self.storage.pull(LARGE_FILES)
        self._check_format()
        self._folders = {folder.name.rpartition("-")[2]: folder for folder in sorted(self.folder.glob("*-*/"))}

    def _check_format(self) -> None:
        """Raises SpecError if study.json states another format. A damaged one is replaced by the next sweep."""
        try:
            document = json.loads((self.folder / "study.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return
        check_format(self.folder, document.get("format") if isinstance(document, dict) else None)

    def trials(self) -> list[Trial]:
        """Return the trials that the space lists; none if a searcher proposes them."""
        return [] if self.space.search.algorithm == "optuna" else [self._trial(run) for run in self.space.runs()]

    def trial(self, assignment: Assignment) -> Trial:
        """Return the trial of one value per axis."""
        return self._trial(self.space.run(assignment))

    def existing_trials(self) -> list[Trial]:
        """Return the trials on disk that are points of the current space."""
        trials = [self._existing_trial(folder) for folder in self._folders.values()]
        return [trial for trial in trials if trial is not None]

    def is_pending(self, trial: Trial) -> bool:
        """Whether a sweep runs the trial. Failed ones are retried; those that this scheduler stopped stay stopped."""
        outcome = trial.outcome
        stopped = outcome is not None and outcome.state == "stopped" and outcome.reason == self.space.search.scheduler
        return not (trial.folder.finished or stopped)

    def tune_config(self, trial: Trial) -> Row:
        """Return Tune's config of a trial: the name of its folder, and its value for each axis."""
        current = _read_assignment(trial.folder.path) if self.is_population else None
        return {"trial": trial.name, **(current or trial.assignment)}

    def trial_of_config(self, config: Row, name: str | None = None) -> Trial:
        """Return the trial of Tune's config; in a population, the member `name` with its current values."""
        trial = self.trial({field: value for field, value in config.items() if field != "trial"})
        if not self.is_population:
            return trial
        name = name or str(config["trial"])
        return replace(trial, name=name, storage=self.storage.below(name))

    @property
    def is_population(self) -> bool:
        """Whether the trials are members of a population, whose values change during training."""
        return self.space.search.scheduler == "pbt"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study's lock. Raises SpecError if another sweep holds it."""
        RunFolder(self.folder).make()
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / ".lock", 0, RESULTS_REMEDY))
            except Timeout:
                raise SpecError(
                    f"'{self.storage}' is being written by another sweep; wait for it, or choose another --results."
                ) from None
            yield

    def describe(self, command: Sequence[str]) -> None:
        """Write study.json: the format, and the space as this sweep reads it."""
        space = self.space
        axes = {axis.field: {axis.kind: axis.values, "when": axis.when} for axis in space.axes}
        document = {
            "format": FORMAT, "file": str(space.path), "command": list(command), "base": space.base, "space": axes,
            "search": space.search.model_dump(mode="json"),
        }  # fmt: skip
        self.storage.write("study.json", json.dumps(document, indent=2, default=str))

    def check_shared(self) -> None:
        """Raises SpecError if this node does not find the study's folder."""
        if not self.storage.is_shared and not (self.folder / "study.json").exists():
            raise SpecError(
                f"'{self.folder}' does not exist on node {platform.node()}: choose a --results that all nodes share."
            )

    def write_table(self, trials: Sequence[Trial], startup: Mapping[str, float] = MappingProxyType({})) -> None:
        """Write trials.csv. `startup`: seconds from a trial's start to the start of its first round, by name."""
        known = self._startup_seconds() | dict(startup)
        rows = [self._row(trial) | {"startup_seconds": known.get(trial.name)} for trial in trials]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.storage.write("trials.csv", table.getvalue())

    def _startup_seconds(self) -> Row:
        """Return the column that an earlier sweep wrote, by trial."""
        try:
            with (self.folder / "trials.csv").open(newline="", encoding="utf-8") as file:
                return {row["trial"]: row["startup_seconds"] for row in csv.DictReader(file)}
        except (OSError, KeyError, ValueError, csv.Error):
            return {}

    def _row(self, trial: Trial) -> Row:
        if self.is_pending(trial):
            return self._current_row(trial)
        if trial.name not in self._final_rows:
            self._final_rows[trial.name] = self._current_row(trial)
        return self._final_rows[trial.name]

    def _current_row(self, trial: Trial) -> Row:
        outcome, history = trial.outcome, trial.history()
        reason = trial.damage or (outcome.reason if outcome else "")
        metrics = last_metrics(history)
        return {"trial": trial.name, **flatten(trial.assignment), "state": trial.state, "round": trial.round} | {
            **metrics, "seconds": round(sum(row.get("seconds", 0) for row in history), 3), "reason": reason,
            **identity_columns(trial.folder.identity),
        }  # fmt: skip

    def _existing_trial(self, folder: Path) -> Trial | None:
        """Return the trial of a folder, None if it is not a point of the space.

        On an axis that was added after the trial, it has the base's value, provided that its key stays the same.
        """
        assignment, axes = _read_assignment(folder), self.space.axes
        if assignment is None:
            return None
        known = {axis.field: assignment[axis.field] for axis in axes if axis.field in assignment}
        try:
            fields = flatten(self.space.run(known).experiment.model_dump(mode="json"))
            trial = self.trial({axis.field: known.get(axis.field, fields.get(axis.field)) for axis in axes})
        except SpecError:  # the space has changed and no longer allows it
            return None
        return trial if trial.folder.path == folder and contains(axes, trial.assignment) else None

    def _trial(self, run: Run) -> Trial:
        name = Path(run.name).name
        if not self.space.axes:
            return Trial(name, run.label, run.experiment, run.assignment, self.storage)
        path = self._folders.get(name.rpartition("-")[2], self.folder / name)
        return Trial(path.name, run.label, run.experiment, run.assignment, self.storage.below(path.name))


def last_metrics(history: list[Row]) -> Row:
    """Return the metrics of the last evaluated round, `last_k_accuracy` and its k, `last_k`; NaN without any."""
    evaluated = [row for row in history if "test_accuracy" in row]
    last = evaluated[-1] if evaluated else {}
    names = ("test_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy")
    metrics = {name: last.get(name, float("nan")) for name in names}
    accuracies = [row["test_accuracy"] for row in evaluated]
    return metrics | {"last_k_accuracy": last_k_accuracy(accuracies), "last_k": last_k(len(accuracies))}


def _read_assignment(folder: Path) -> Assignment | None:
    """Return the trial's value for each axis; None if there is no such file or it is damaged."""
    return read_json(folder / "assignment.json", []) or None
