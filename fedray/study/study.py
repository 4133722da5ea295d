"""A study on disk: which trials a space has, how far each has come, and how it ended.

results/STUDY/LABEL-KEY/           a trial: the folder of its run, found by KEY whatever the space calls it now
results/STUDY/LABEL-KEY/choice.json    its value for each axis
results/STUDY/LABEL-KEY/outcome.json   why a trial ended before its last round; gone once it runs again
results/STUDY/trials.csv           a row per trial
results/STUDY/study.json           the space as the last sweep had it
results/STUDY/tune/                what Tune writes: TensorBoard's events
"""

import csv
import io
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from filelock import FileLock, Timeout

from fedray.config.experiment import Experiment
from fedray.config.loader import Run, Space
from fedray.config.space import Assignment, contains
from fedray.config.yaml_files import flatten
from fedray.errors import SpecError
from fedray.results.loader import last_k, last_k_accuracy, read_rows
from fedray.results.run_folder import RunFolder
from fedray.results.storage import Storage, storage_of
from fedray.types import Row

LARGE_FILES = "*checkpoint/*.safetensors"
"""Files that it takes no look at: large, and only for those who run a trial."""

State: TypeAlias = Literal["finished", "stopped", "failed", "begun", "waiting"]


@dataclass(frozen=True)
class Outcome:
    """Why a trial ended before its last round."""

    state: Literal["stopped", "failed"]
    round: int
    by: str  # the scheduler that stopped it, or why it failed, in one line
    node: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    name: str
    label: str
    experiment: Experiment
    choice: Assignment
    storage: Storage

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.storage.folder)

    @property
    def round(self) -> int:
        """How many rounds are kept: what a table holds beyond the checkpoint is run again."""
        rounds = self.experiment.training.rounds
        return rounds if self.folder.finished else self.folder.resumable_from

    @property
    def outcome(self) -> Outcome | None:
        """None while it may go on, and when it is finished."""
        try:
            return Outcome(**json.loads((self.folder.path / "outcome.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def end(self, outcome: Outcome) -> None:
        """Keep why it ended early."""
        self.storage.write("outcome.json", json.dumps(asdict(outcome), indent=2))

    def begin(self) -> None:
        """It runs (again)."""
        self.folder.make()
        (self.folder.path / "choice.json").write_text(json.dumps(self.choice), encoding="utf-8")
        (self.folder.path / "outcome.json").unlink(missing_ok=True)
        self.storage.push()

    def checkout(self) -> "Trial":
        """As the process that makes it has it: with all that was made before, in a folder of this node."""
        storage = self.storage.working_copy()
        storage.pull()
        return replace(self, storage=storage)

    def look(self) -> None:
        """See what its process has pushed, which may be on another node."""
        self.storage.pull(LARGE_FILES)

    @property
    def state(self) -> State:
        """Where it stands."""
        if self.folder.finished:
            return "finished"
        if (outcome := self.outcome) is not None:
            return outcome.state
        return "begun" if self.round else "waiting"

    def history(self) -> list[Row]:
        """The rows of rounds.csv that are kept, numbers as numbers, without what is empty."""
        rows = read_rows(self.folder.path / "rounds.csv")
        return [row for row in rows if row.get("round", math.inf) <= self.round]

    def faults(self) -> list[str]:
        """What kinds of faults it has got over, one for each time."""
        return [row["fault"] for row in read_rows(self.folder.path / "faults.csv")]


class Study:
    """The trials of a space below a folder of results."""

    def __init__(self, space: Space, results: str | Path, *, alone: bool = False) -> None:
        """`alone`: a single experiment will do, too; its folder is that of `fedray run`."""
        if not (space.axes or alone):
            raise SpecError(f"{space.path} is one experiment, not a space of them: use fedray run.")
        self.space = space
        self.results = results
        self.storage = storage_of(results).below(space.path.stem)
        self.folder = self.storage.folder
        self._ended: dict[str, Row] = {}  # rows of trials.csv that do not change any more
        self.storage.pull(LARGE_FILES)
        self._held = {folder.name.rpartition("-")[2]: folder for folder in sorted(self.folder.glob("*-*/"))}

    def trials(self) -> list[Trial]:
        """All that the file alone decides; what a searcher proposes comes to light as it does."""
        return [] if self.space.search.algorithm == "optuna" else [self._trial(run) for run in self.space.runs()]

    def trial(self, choice: Assignment) -> Trial:
        """The trial of one value for each axis."""
        return self._trial(self.space.run(choice))

    def kept(self) -> list[Trial]:
        """The trials on disk that are points of the space as it is now."""
        found = [self._kept(folder) for folder in self._held.values()]
        return [trial for trial in found if trial is not None]

    def left(self, trial: Trial) -> bool:
        """Whether it is to be run: what failed is tried again, what this scheduler has stopped stays stopped."""
        outcome = trial.outcome
        stopped = outcome is not None and outcome.state == "stopped" and outcome.by == self.space.search.scheduler
        return not (trial.folder.finished or stopped)

    def config(self, trial: Trial) -> Row:
        """What Tune is told of a trial: its folder's name, and its value for each axis."""
        now = _choice(trial.folder.path) if self.is_population else None
        return {"trial": trial.name, **(now or trial.choice)}

    def of_config(self, config: Row, name: str | None = None) -> Trial:
        """The trial that Tune was told of; of a population, the member `name` with the values it has now."""
        trial = self.trial({field: value for field, value in config.items() if field != "trial"})
        if not self.is_population:
            return trial
        name = name or str(config["trial"])
        return replace(trial, name=name, storage=self.storage.below(name))

    @property
    def is_population(self) -> bool:
        """Whether trials are members of a population, whose values change on the way."""
        return self.space.search.scheduler == "pbt"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other sweep out of the study."""
        RunFolder(self.folder).make()
        held = FileLock(self.folder / ".lock")
        try:
            held.acquire(timeout=0)
        except Timeout:
            raise SpecError(
                f"'{self.storage}' is being written by another sweep; wait for it, or choose another --results."
            ) from None
        try:
            yield
        finally:
            held.release()

    def describe(self, command: Sequence[str]) -> None:
        """study.json: the space as this sweep has it."""
        space = self.space
        axes = {axis.field: {axis.kind: axis.values, "when": axis.when} for axis in space.axes}
        document = {"file": str(space.path), "command": list(command), "base": space.base, "space": axes,
                    "search": space.search.model_dump(mode="json")}  # fmt: skip
        self.storage.write("study.json", json.dumps(document, indent=2, default=str))

    def check_shared(self) -> None:
        """Raises SpecError where this node does not see the study's folder."""
        if not self.storage.is_shared and not (self.folder / "study.json").exists():
            raise SpecError(
                f"'{self.folder}' is not there on node {platform.node()}: choose a --results that all nodes share."
            )

    def write_table(self, trials: Sequence[Trial], startup: Mapping[str, float] = MappingProxyType({})) -> None:
        """trials.csv: where each trial stands, its last figures, and the seconds from its start to its first round."""
        known = self._startup() | dict(startup)
        rows = [self._row(trial) | {"startup_seconds": known.get(trial.name)} for trial in trials]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.storage.write("trials.csv", table.getvalue())

    def _startup(self) -> dict[str, Any]:
        """What an earlier sweep has written of it."""
        try:
            with (self.folder / "trials.csv").open(newline="", encoding="utf-8") as file:
                return {row["trial"]: row["startup_seconds"] for row in csv.DictReader(file)}
        except (OSError, KeyError, csv.Error):
            return {}

    def _row(self, trial: Trial) -> Row:
        if self.left(trial):
            return self._figures(trial)
        if trial.name not in self._ended:
            self._ended[trial.name] = self._figures(trial)
        return self._ended[trial.name]

    def _figures(self, trial: Trial) -> Row:
        outcome, history = trial.outcome, trial.history()
        reason = outcome.by if outcome else ""
        figures = last_metrics(history)
        return {"trial": trial.name, **flatten(trial.choice), "state": trial.state, "round": trial.round} | {
            **figures, "seconds": round(sum(row["seconds"] for row in history), 3), "reason": reason,
        }  # fmt: skip

    def _kept(self, folder: Path) -> Trial | None:
        """A field that was no axis then has the value that the base has now, if it is the same trial with it."""
        choice, axes = _choice(folder), self.space.axes
        if choice is None:
            return None
        known = {axis.field: choice[axis.field] for axis in axes if axis.field in choice}
        try:
            fields = flatten(self.space.run(known).experiment.model_dump(mode="json"))
            trial = self.trial({axis.field: known.get(axis.field, fields.get(axis.field)) for axis in axes})
        except SpecError:  # the space has changed so that it is not possible any more
            return None
        return trial if trial.folder.path == folder and contains(axes, trial.choice) else None

    def _trial(self, run: Run) -> Trial:
        name = Path(run.name).name
        if not self.space.axes:
            return Trial(name, run.label, run.experiment, run.assignment, self.storage)
        path = self._held.get(name.rpartition("-")[2], self.folder / name)
        return Trial(path.name, run.label, run.experiment, run.assignment, self.storage.below(path.name))


METRICS = ("test_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy")


def last_metrics(history: list[Row]) -> Row:
    """Returns the metrics of the last evaluated round, `last_k_accuracy` and its k, `last_k`; NaN without any."""
    evaluated = [row for row in history if "test_accuracy" in row]
    last = evaluated[-1] if evaluated else {}
    metrics = {name: last.get(name, float("nan")) for name in METRICS}
    accuracies = [row["test_accuracy"] for row in evaluated]
    return metrics | {"last_k_accuracy": last_k_accuracy(accuracies), "last_k": last_k(len(accuracies))}


def _choice(folder: Path) -> Assignment | None:
    try:
        choice: Assignment = json.loads((folder / "choice.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return choice
