"""A run's tables: written as rows happen, read back as DataFrames.

spec.yaml  environment.json  rounds.csv  clients.csv  classes.csv  partition.csv
costs.json  checkpoint/  model.safetensors (the final proxy; it marks a run as finished)
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from filelock import FileLock, Timeout

from fedray.config import REPEATABLE, Experiment
from fedray.data.federation import Federation
from fedray.errors import SpecError
from fedray.files import named_files
from fedray.spec_file import flatten, read_yaml, to_yaml
from fedray.storage import storage_of
from fedray.types import Row

if TYPE_CHECKING:
    import pandas as pd

    from fedray.rows import Report

ROUNDS = (
    "round", "accuracy", "loss", "worst_class_accuracy", "rare_class_accuracy", "clients", "failed",
    "seconds", "bytes_down", "bytes_up", "teacher_asked", "teacher_passes",
    "teacher_flops", "teacher_seconds",
)  # fmt: skip
CLASSES = ("round", "class", "name", "examples", "accuracy")
CLIENTS = (
    "round", "client", "examples", "local_accuracy", "seconds", "teacher_seconds", "node", "device", "peak_bytes",
    "failure",
)  # fmt: skip


class Folder:
    """The folder of one run, for the one process that writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint"
        self.model = path / "model.safetensors"

    @property
    def finished(self) -> bool:
        return self.model.exists()

    @property
    def resumable_from(self) -> int:
        """The round of the newest checkpoint, 0 without one."""
        whole = self.checkpoint.glob("round-*/state.json")
        names = [state.parent.name.removeprefix("round-") for state in whole]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def make(self) -> None:
        """Raises SpecError where the folder cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".writable").touch()
            (self.path / ".writable").unlink()
        except OSError as error:
            raise SpecError(f"the results folder '{self.path}' cannot be written ({error.strerror}).") from error

    def check(self, experiment: Experiment, *, resume: bool) -> None:
        """Raises SpecError where the folder cannot be written or holds something else to keep."""
        self.make()
        if self.finished or self.resumable_from:
            self._check_spec(experiment)
            if not (self.finished or resume):
                raise SpecError(f"'{self.path}' holds an unfinished run of this spec; add --resume to continue it.")

    def _check_spec(self, experiment: Experiment) -> None:
        spec = self.path / "spec.yaml"
        if not spec.exists():
            raise SpecError(f"'{self.path}' holds a run, but no spec.yaml to know it by; choose another --results.")
        difference = _first_difference(read_yaml(spec), experiment)
        if difference:
            raise SpecError(f"'{self.path}' holds results of another spec ({difference}); choose another --results.")
        now = named_files(experiment)
        for field, digest in self._files().items():
            if now.get(field) != digest:
                raise SpecError(
                    f"'{self.path}' holds a run with other contents of the file that {field} names; "
                    "bring them back, or choose another --results."
                )

    def _files(self) -> dict[str, str]:
        """What was in the files that the spec names when the run began."""
        try:
            files: dict[str, str] = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))["files"]
            return files
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @contextmanager
    def lock(self, patience: float = 0) -> Iterator[None]:
        """Keep every other run out of the folder, until this ends or its process dies.

        One that is there may take `patience` seconds to leave: a process that was killed takes its actors along.
        """
        held = FileLock(self.path / ".lock")
        try:
            held.acquire(timeout=patience)
        except Timeout:
            raise SpecError(
                f"'{self.path}' is being written by another run; wait for it, or choose another --results."
            ) from None
        try:
            yield
        finally:
            held.release()

    def describe(self, experiment: Experiment, environment: Row) -> None:
        """Write the resolved spec and where it runs."""
        (self.path / "spec.yaml").write_text(to_yaml(experiment), encoding="utf-8")
        (self.path / "environment.json").write_text(json.dumps(environment, indent=2), encoding="utf-8")

    def write_partition(self, federation: Federation) -> None:
        """partition.csv: a row per client, a column per class, in examples."""
        with Table(self.path / "partition.csv", ("client", "examples", *federation.train.classes)) as table:
            for client, counts in enumerate(federation.held.tolist()):
                named = dict(zip(federation.train.classes, counts, strict=True))
                table.write([{"client": client, "examples": sum(counts), **named}])

    def tables(self, losses: Sequence[str], after_round: int) -> "Tables":
        """The tables of the rounds, without the rows beyond `after_round` that a crash left behind."""
        return Tables(self.path, losses, after_round)


class Table:
    """A csv that grows. What is written is on disk when `write` returns.

    Raises SpecError where rows up to `after_round` should be there already, and are not.
    """

    def __init__(self, path: Path, columns: Sequence[str], after_round: int = 0) -> None:
        kept = _rows_up_to(path, columns, after_round) if after_round else []
        self.columns = columns
        self._file = path.with_suffix(".partial").open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerows([columns, *kept])
        self._file.flush()
        Path(self._file.name).replace(path)

    def write(self, rows: Iterable[Row]) -> None:
        """Add rows by column name; a missing value stays empty."""
        self._writer.writerows([row.get(column, "") for column in self.columns] for row in rows)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tables:
    """The three tables that grow with the rounds."""

    def __init__(self, folder: Path, losses: Sequence[str], after_round: int) -> None:
        self.rounds = Table(folder / "rounds.csv", ROUNDS, after_round)
        self.clients = Table(folder / "clients.csv", (*CLIENTS[:3], *losses, *CLIENTS[3:]), after_round)
        self.classes = Table(folder / "classes.csv", CLASSES, after_round)

    def write(self, report: "Report") -> None:
        """Add one round's rows."""
        self.clients.write(report.clients)
        self.classes.write(report.classes)
        self.rounds.write([report.round])

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, *_: object) -> None:
        for table in (self.rounds, self.clients, self.classes):
            table.close()


@dataclass(frozen=True)
class Results:
    """The tables of one run or many. Each has a column `run` and one for each spec field that varies."""

    folders: dict[str, Path]
    varied: "pd.DataFrame"  # indexed by run, a typed column per varied field
    nullable: frozenset[str] = frozenset()  # fields that are null in some run and something in another
    unfinished: tuple[str, ...] = ()  # runs that have not come to their last round

    @cached_property
    def rounds(self) -> "pd.DataFrame":
        return self._read("rounds.csv")

    @cached_property
    def clients(self) -> "pd.DataFrame":
        return self._read("clients.csv")

    @cached_property
    def classes(self) -> "pd.DataFrame":
        return self._read("classes.csv")

    @cached_property
    def partition(self) -> "pd.DataFrame":
        return self._read("partition.csv")

    @cached_property
    def costs(self) -> "pd.DataFrame":
        """A row per finished run: what costs.json says, as `teacher.forward_passes` and so on."""
        import pandas as pd

        written = {run: folder / "costs.json" for run, folder in self.folders.items()}
        rows = {run: _costs(file) for run, file in written.items() if file.exists()}
        table = pd.DataFrame([{"run": run, **row} for run, row in rows.items()], columns=None if rows else ["run"])
        return table.join(self.varied, on="run")

    def _read(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        frames = {run: _read_csv(folder / name) for run, folder in self.folders.items() if (folder / name).exists()}
        if not frames:
            raise SpecError(f"no {name} is left of {', '.join(map(str, self.folders.values()))}.")
        table = pd.concat(frames, names=["run"]).copy().reset_index(level="run").reset_index(drop=True)
        return table.join(self.varied, on="run")


def load_results(path: str | Path) -> Results:
    """Load one run, or every run below a folder or URI, finished or not.

    Raises SpecError where there is no run.
    """
    import pandas as pd

    storage = storage_of(path)
    storage.pull(without="*.safetensors")
    root = storage.folder
    written = [spec.parent for spec in sorted(root.rglob("spec.yaml")) if _holds_a_run(spec.parent)]
    folders = {str(folder.relative_to(root)): folder for folder in written}
    if not folders:
        raise SpecError(f"'{storage}' holds no results.")
    flat = [flatten(read_yaml(folder / "spec.yaml")) for folder in folders.values()]
    cells = [{key: str(cell) if isinstance(cell, list) else cell for key, cell in row.items()} for row in flat]
    specs = pd.DataFrame(cells, index=pd.Index(folders, name="run"))
    varied = [c for c in specs.columns if specs[c].astype(str).nunique(dropna=False) > 1]
    nullable = {c for c in varied if len({row[c] is None for row in flat if c in row}) > 1}
    rounds = dict(zip(folders, (row.get("training.rounds") for row in flat), strict=True))
    unfinished = tuple(run for run, folder in folders.items() if _last_round(folder / "rounds.csv") != rounds[run])
    return Results(folders, specs[varied].infer_objects(), frozenset(nullable), unfinished)


def _last_round(table: Path) -> int | None:
    """As its last whole line says; None without one."""
    try:
        last = table.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")[2].partition(",")[0]
    except (OSError, UnicodeDecodeError):
        return None
    return int(last) if last.isdigit() else None


def _holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("environment.json", "rounds.csv"))


def _rows_up_to(path: Path, columns: Sequence[str], last_round: int) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error):
        header, rows = [], []
    kept = [row for row in rows if len(row) == len(columns) and row[0].isdigit() and int(row[0]) <= last_round]
    complete = path.stem != "rounds" or [int(row[0]) for row in kept] == list(range(1, last_round + 1))
    if header != list(columns) or not complete:
        raise SpecError(
            f"'{path}' does not hold the rounds before its checkpoint; delete '{path.parent}' to begin again."
        )
    return kept


def _costs(file: Path) -> Row:
    """The figures, without the account of the bank's entries."""
    try:
        costs = flatten(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:
        raise SpecError(f"'{file}' is damaged ({error}).") from error
    return {name: value for name, value in costs.items() if not name.startswith("teacher.entries")}


def _read_csv(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_csv(path)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise SpecError(f"'{path}' is damaged ({error}).") from error


def _first_difference(before: Row, experiment: Experiment) -> str:
    """`training.lr is 0.1 there and 0.01 here`; empty where the same result would come out."""
    old, new = flatten(before), flatten(yaml.safe_load(to_yaml(experiment)))
    for field in [*new, *(old.keys() - new.keys())]:
        if field.split(".")[0] not in REPEATABLE and old.get(field) != new.get(field):
            return f"{field} is {old.get(field)} there and {new.get(field)} here"
    return ""
