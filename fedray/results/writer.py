"""Write the tables of a run, row by row, and restores them after a crash."""

import csv
import io
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedray.errors import SpecError, writing
from fedray.files import replacing
from fedray.types import Fault, Row

if TYPE_CHECKING:
    from fedray.results.rows import RoundRecord

ROUNDS_COLUMNS = (
    "round", "test_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy", "clients", "failed_clients",
    "retried", "update_norm", "update_drift", "update_cosine", "seconds", "server_seconds", "bytes_down", "bytes_up",
    "teacher_outputs_used", "teacher_forward_passes", "teacher_flops", "teacher_seconds",
)  # fmt: skip
CLIENT_ACCURACY_COLUMNS = ("client_accuracy", "client_accuracy_std", "client_accuracy_worst_tenth", "evaluated_model")
"""Columns of rounds.csv that earlier runs lack."""
ACCURACIES_COLUMNS = ("round", "client", "test_accuracy")
CLASSES_COLUMNS = ("round", "class", "class_name", "examples", "test_accuracy")
CLIENTS_COLUMNS = (
    "round", "client", "examples", "train_accuracy", "update_norm", "seconds", "teacher_seconds",
    "node", "device", "peak_bytes", "failure",
)  # fmt: skip
CONFUSION_COLUMNS = ("round", "class", "predicted_class", "examples")
PARTITION_COLUMNS = ("client", "client_label", "class", "class_name", "examples")
FAULTS_COLUMNS = ("round", "time", "fault", "subject", "node", "response", "reason")
KEY_COLUMNS = ("round", "client", "class", "predicted_class")
"""Columns of whole numbers that are never empty."""
TEXT_COLUMNS = (
    "class_name", "client_label", "retried", "node", "device", "failure", "time", "fault", "subject", "response",
    "reason", "trial", "state", "code", "data", "torch", "evaluated_model",
)  # fmt: skip
AMOUNT_PREFIXES = ("seconds", "server_seconds", "bytes", "teacher_", "failed_clients", "examples")
"""Columns whose names start like this are never negative or infinite."""


@dataclass(frozen=True)
class TablePrefix:
    """The first bytes of a table, which hold the rounds up to a checkpoint."""

    length: int
    crc32: int

    def starts(self, file: Path) -> bool:
        """Whether a file starts with these bytes."""
        try:
            with file.open("rb") as handle:
                content = handle.read(self.length)
        except OSError:
            return False
        return len(content) == self.length and zlib.crc32(content) == self.crc32


class CsvTable:
    """A CSV file to which rows are appended; `write` flushes them before it returns.

    Rows after `after_round` are dropped when it is opened. Raises SpecError if earlier rows are missing, and RunError
    if the file cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], after_round: int = 0) -> None:
        self.path, self.columns = path, columns
        rows = _rows_up_to(path, columns, after_round) if after_round else []
        content = _csv([columns, *rows])
        with writing(path):
            with replacing(path) as partial:
                partial.write_bytes(content)
            self._file = path.open("ab")
        self._length, self._crc = len(content), zlib.crc32(content)

    @property
    def prefix(self) -> TablePrefix:
        """All rows so far."""
        return TablePrefix(self._length, self._crc)

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows, given by column name; missing values are empty cells."""
        content = _csv([[row.get(column, "") for column in self.columns] for row in rows])
        with writing(self.path):
            self._file.write(content)
            self._file.flush()
        self._length, self._crc = self._length + len(content), zlib.crc32(content, self._crc)

    def close(self) -> None:
        """Closes the file. Rows that could not be written have already raised an error."""
        with suppress(OSError):
            self._file.close()

    def __enter__(self) -> "CsvTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RunTables:
    """The tables of a run that grow with each round, and faults.csv."""

    def __init__(self, folder: Path, losses: Sequence[str], after_round: int) -> None:
        self._folder, self._losses = folder, losses
        self._open(after_round)
        self.faults = _open_log(folder / "faults.csv")

    def write(self, record: "RoundRecord") -> None:
        """Append the rows of one round; the row of rounds.csv last."""
        self.clients.write(record.clients)
        self.classes.write(record.classes)
        self.accuracies.write(record.accuracies)
        if record.confusion:
            write_confusion(self._folder, "proxy", record.confusion)
        self.rounds.write([record.round])

    @property
    def prefixes(self) -> dict[str, TablePrefix]:
        """All rows of the tables that grow by round so far, by file name."""
        return {table.path.name: table.prefix for table in self._tables}

    @property
    def _tables(self) -> tuple[CsvTable, ...]:
        return self.rounds, self.clients, self.classes, self.accuracies

    def rollback(self, after_round: int) -> None:
        """Drops the rows of later rounds, which will be run again."""
        self._close()
        self._open(after_round)

    def report(self, number: int, faults: Iterable[Fault]) -> None:
        """Append the faults of a round to faults.csv. They are kept if the round is run again."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.faults.write({"round": number, "time": now, **asdict(fault)} for fault in faults)

    def _open(self, after_round: int) -> None:
        columns = (*CLIENTS_COLUMNS[:3], *self._losses, *CLIENTS_COLUMNS[3:])
        rounds = (*ROUNDS_COLUMNS, *CLIENT_ACCURACY_COLUMNS)
        self.rounds = CsvTable(self._folder / "rounds.csv", rounds, after_round)
        self.clients = CsvTable(self._folder / "clients.csv", columns, after_round)
        self.classes = CsvTable(self._folder / "classes.csv", CLASSES_COLUMNS, after_round)
        self.accuracies = CsvTable(self._folder / "client_accuracy.csv", ACCURACIES_COLUMNS, after_round)

    def _close(self) -> None:
        for table in self._tables:
            table.close()

    def __enter__(self) -> "RunTables":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.faults.close()


def _open_log(path: Path) -> CsvTable:
    """Open faults.csv. No result depends on it, so a damaged one is set aside as faults.csv.damaged."""
    try:
        return CsvTable(path, FAULTS_COLUMNS, sys.maxsize if path.exists() else 0)
    except SpecError:
        with writing(path):
            path.replace(path.with_name(f"{path.name}.damaged"))
        return CsvTable(path, FAULTS_COLUMNS)


def write_confusion(folder: Path, model: str, rows: Iterable[Row]) -> None:
    """Write confusion-MODEL.csv: the number of examples by class and predicted class."""
    with CsvTable(folder / f"confusion-{model}.csv", CONFUSION_COLUMNS) as table:
        table.write(rows)


def differing_tables(folder: Path, prefixes: Mapping[str, TablePrefix]) -> list[str]:
    """Return the names of the tables that do not start with these bytes: rows are missing, or have changed."""
    return [name for name, prefix in prefixes.items() if not prefix.starts(folder / name)]


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


def _read_rows(path: Path) -> list[list[str]]:
    """Return the header and the rows of a table, without an incomplete last line; empty if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = file.read().rpartition("\n")[0]
        return list(csv.reader(io.StringIO(lines, newline="")))
    except (OSError, ValueError, csv.Error):
        return []


def _rows_up_to(path: Path, columns: Sequence[str], last_round: int) -> list[list[str]]:
    header, *rows = _read_rows(path) or [[]]
    rows = [row for row in rows if len(row) == len(columns) and row[0].isdigit() and int(row[0]) <= last_round]
    is_complete = path.stem != "rounds" or [int(row[0]) for row in rows] == list(range(1, last_round + 1))
    if header != list(columns) or not is_complete:
        raise SpecError(
            f"'{path}' does not hold the rounds before the checkpoint; delete '{path.parent}' to start from scratch."
        )
    return rows
