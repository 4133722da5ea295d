"""The tables of many runs, read back as DataFrames."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedray.config.yaml_files import flatten, read_yaml
from fedray.errors import SpecError
from fedray.results.storage import storage_of
from fedray.results.writer import FAULTS_COLUMNS
from fedray.types import Row

if TYPE_CHECKING:
    import pandas as pd


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
    def faults(self) -> "pd.DataFrame":
        """A row for each thing that went wrong and was got over."""
        import pandas as pd

        written = any((folder / "faults.csv").exists() for folder in self.folders.values())
        return self._read("faults.csv") if written else pd.DataFrame(columns=["run", *FAULTS_COLUMNS])

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


def last_k(evaluated_rounds: int) -> int:
    """Returns k, the number of last evaluated rounds that are averaged: a fifth of all, from 1 to 10."""
    return min(10, max(1, evaluated_rounds // 5))


def last_k_accuracy(accuracies: Sequence[float]) -> float:
    """Returns the mean of the last k of a run's test accuracies, one per evaluated round; NaN without any."""
    tail = accuracies[-last_k(len(accuracies)) :]
    return sum(tail) / len(tail) if len(tail) else math.nan


def load_results(path: str | Path) -> Results:
    """Load one run, or every run below a folder or URI, finished or not.

    Raises SpecError where there is no run.
    """
    import pandas as pd

    storage = storage_of(path)
    storage.pull(without="*.safetensors")
    folders = run_folders(storage.folder)
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


def run_folders(root: Path) -> dict[str, Path]:
    """Every folder below that holds a run, by its path from there; `.` where it is a run itself."""
    written = [spec.parent for spec in sorted(root.rglob("spec.yaml")) if _holds_a_run(spec.parent)]
    return {str(folder.relative_to(root)): folder for folder in written}


def _holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("environment.json", "rounds.csv"))


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
