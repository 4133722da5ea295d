"""The tables of a run: written as rows happen, whole again after a crash."""

import csv
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fedray.errors import SpecError, writing
from fedray.types import Fault, Row

if TYPE_CHECKING:
    from fedray.results.rows import RoundRecord

ROUNDS_COLUMNS = (
    "round", "test_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy", "clients", "failed_clients",
    "retried", "update_norm", "update_drift", "update_cosine", "seconds", "bytes_down", "bytes_up",
    "teacher_outputs_used", "teacher_forward_passes", "teacher_flops", "teacher_seconds",
)  # fmt: skip
CLASSES_COLUMNS = ("round", "class", "class_name", "examples", "test_accuracy")
CLIENTS_COLUMNS = (
    "round", "client", "examples", "train_accuracy", "update_norm", "seconds", "teacher_seconds",
    "node", "device", "peak_bytes", "failure",
)  # fmt: skip
CONFUSION_COLUMNS = ("round", "class", "predicted_class", "examples")
PARTITION_COLUMNS = ("client", "class", "class_name", "examples")
FAULTS_COLUMNS = ("round", "time", "fault", "subject", "node", "response", "reason")


class CsvTable:
    """A csv that grows. What is written is on disk when `write` returns.

    Raises SpecError where rows up to `after_round` should be there already, and are not; RunError
    where the disk does not take them.
    """

    def __init__(self, path: Path, columns: Sequence[str], after_round: int = 0) -> None:
        self.path, self.columns = path, columns
        kept = _rows_up_to(path, columns, after_round) if after_round else []
        with writing(path):
            self._file = path.with_suffix(".partial").open("w", newline="", encoding="utf-8")
            self._writer = csv.writer(self._file, lineterminator="\n")
            self._writer.writerows([columns, *kept])
            self._file.flush()
            Path(self._file.name).replace(path)

    def write(self, rows: Iterable[Row]) -> None:
        """Add rows by column name; a missing value stays empty."""
        with writing(self.path):
            self._writer.writerows([row.get(column, "") for column in self.columns] for row in rows)
            self._file.flush()

    def close(self) -> None:
        with suppress(OSError):  # of what could not be written, which has been said
            self._file.close()

    def __enter__(self) -> "CsvTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RunTables:
    """The tables that grow with the rounds."""

    def __init__(self, folder: Path, losses: Sequence[str], after_round: int) -> None:
        self._folder, self._losses = folder, losses
        self._open(after_round)
        faults = folder / "faults.csv"
        self.faults = CsvTable(faults, FAULTS_COLUMNS, sys.maxsize if faults.exists() else 0)

    def write(self, report: "RoundRecord") -> None:
        """Add one round's rows."""
        self.clients.write(report.clients)
        self.classes.write(report.classes)
        if report.confusion:
            write_confusion(self._folder, "proxy", report.confusion)
        self.rounds.write([report.round])

    def rollback(self, after_round: int) -> None:
        """Drop the rows of later rounds, which will be run again."""
        self._close()
        self._open(after_round)

    def report(self, number: int, faults: Iterable[Fault]) -> None:
        """Say what was survived in a round. These rows stay, whatever is run again."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.faults.write({"round": number, "time": now, **asdict(fault)} for fault in faults)

    def _open(self, after_round: int) -> None:
        columns = (*CLIENTS_COLUMNS[:3], *self._losses, *CLIENTS_COLUMNS[3:])
        self.rounds = CsvTable(self._folder / "rounds.csv", ROUNDS_COLUMNS, after_round)
        self.clients = CsvTable(self._folder / "clients.csv", columns, after_round)
        self.classes = CsvTable(self._folder / "classes.csv", CLASSES_COLUMNS, after_round)

    def _close(self) -> None:
        for table in (self.rounds, self.clients, self.classes):
            table.close()

    def __enter__(self) -> "RunTables":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.faults.close()


def write_confusion(folder: Path, model: str, rows: Iterable[Row]) -> None:
    """confusion-MODEL.csv: how many examples of each class were taken for which."""
    with CsvTable(folder / f"confusion-{model}.csv", CONFUSION_COLUMNS) as table:
        table.write(rows)


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
