"""Read result folders: the one reader of rounds.csv and of every other result table.

`load_results` is the public call. pandas is imported in the functions that return DataFrames, because driver processes
use `read_rows` and `last_k` only.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fedray.config.yaml_files import flatten
from fedray.errors import SpecError
from fedray.results.checksums import check_checksum, checksum_problems
from fedray.results.folders import run_folders
from fedray.results.run_folder import RunFolder
from fedray.results.specs import read_run_spec, specs_table, varying_fields
from fedray.results.writer import (
    ACCURACIES_COLUMNS,
    AMOUNT_PREFIXES,
    CLIENT_ACCURACY_COLUMNS,
    FAULTS_COLUMNS,
    KEY_COLUMNS,
    ROUNDS_COLUMNS,
    TEXT_COLUMNS,
)
from fedray.types import Row

if TYPE_CHECKING:
    import pandas as pd


REQUIRED_COLUMNS: Mapping[str, Sequence[str]] = {
    "rounds.csv": ROUNDS_COLUMNS,
    "clients.csv": ("round", "client"),
    "classes.csv": ("round", "class"),
    "partition.csv": ("client", "class"),
}
"""Columns without which a table of a run cannot be used."""


@dataclass(frozen=True)
class Results:
    """The tables of one run or several. Each has a column `run` and one for each spec field that varies.

    Damage costs the rows that are damaged, and is described in `problems`. A table that no run has raises SpecError.
    """

    folders: dict[str, Path]
    specs: "pd.DataFrame"  # one row per run, one column per spec field
    problems: list[str] = field(default_factory=list)

    @cached_property
    def varied(self) -> "pd.DataFrame":
        """The spec fields that vary, one row per run."""
        return self.specs[varying_fields(self.specs, with_seed=True)]

    @cached_property
    def unfinished(self) -> tuple[str, ...]:
        """Names of the runs whose last round is missing."""
        last = self.rounds.groupby("run")["round"].max().reindex(self.specs.index)
        return tuple(self.specs.index[last != self.specs["training.rounds"]])

    @cached_property
    def rounds(self) -> "pd.DataFrame":
        """One row per run and round."""
        rounds = self._read("rounds.csv")
        for name in CLIENT_ACCURACY_COLUMNS:  # runs of earlier versions lack them
            missing = "" if name in TEXT_COLUMNS else math.nan
            rounds[name] = rounds[name].fillna(missing) if name in rounds else missing
        counts = rounds.groupby("run")["round"].nunique().to_dict()
        for run, folder in self.folders.items():
            count, expected = counts.get(run, 0), int(str(self.specs.at[run, "training.rounds"]))
            if count < expected and RunFolder(folder).finished:
                self.problems.append(f"'{folder / 'rounds.csv'}' has {count} of {expected} rounds of a finished run.")
        return rounds

    @cached_property
    def clients(self) -> "pd.DataFrame":
        """One row per run, round and client of its cohort."""
        return self._read("clients.csv")

    @cached_property
    def classes(self) -> "pd.DataFrame":
        """One row per run, evaluated round and class."""
        return self._read("classes.csv")

    @cached_property
    def client_accuracy(self) -> "pd.DataFrame":
        """One row per run, evaluated round and client with examples: accuracy on the client's own test distribution."""
        import pandas as pd

        try:
            return self._read("client_accuracy.csv")
        except SpecError:  # runs of earlier versions have no such table
            return pd.DataFrame(columns=["run", *ACCURACIES_COLUMNS])

    @cached_property
    def partition(self) -> "pd.DataFrame":
        """One row per run, client and class that the client holds."""
        return self._read("partition.csv")

    @cached_property
    def faults(self) -> "pd.DataFrame":
        """One row per run and fault that it recovered from."""
        import pandas as pd

        try:
            return self._read("faults.csv")
        except SpecError:  # a run without faults has no table; no result depends on a damaged one
            return pd.DataFrame(columns=["run", *FAULTS_COLUMNS])

    @cached_property
    def costs(self) -> "pd.DataFrame":
        """One row per finished run: the fields of costs.json (`teacher.forward_passes` ...) without cache entries."""
        import pandas as pd

        files = {run: folder / "costs.json" for run, folder in self.folders.items()}
        rows = [{"run": run, **_costs(file, self.problems)} for run, file in files.items() if file.exists()]
        table = pd.DataFrame(rows, columns=None if rows else ["run"])
        return table.join(self.varied, on="run")

    def _read(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        files = {run: folder / name for run, folder in self.folders.items() if (folder / name).exists()}
        if not files:
            raise SpecError(f"no {name} exists in {', '.join(map(str, self.folders.values()))}.")
        if name in REQUIRED_COLUMNS:
            missing = [folder for run, folder in self.folders.items() if run not in files]
            self.problems.extend(f"'{folder / name}' is missing." for folder in missing if RunFolder(folder).finished)
        tables = {run: _read_required(file, self.problems) for run, file in files.items()}
        readable = {run: table for run, table in tables.items() if table is not None}
        if not readable:
            raise SpecError(self.problems[-1])
        table = pd.concat(readable, names=["run"]).copy().reset_index(level="run").reset_index(drop=True)
        return table.join(self.varied, on="run")


def load_results(path: str | Path) -> Results:
    """Return the results of one run, or of every run below a folder or URI, finished or not.

    A run whose spec cannot be read is left out and described in `problems`. Raises SpecError if there is no other.
    """
    problems: list[str] = []
    folders, specs = run_folders(path, problems), dict[str, Row]()
    for run, folder in folders.items():
        problems += checksum_problems(folder)
        try:
            specs[run] = read_run_spec(folder)
        except SpecError as error:
            problems.append(f"{str(error).rstrip('.')}: the run is left out.")
    if not specs:
        raise SpecError(problems[0])
    return Results({run: folders[run] for run in specs}, specs_table(specs), problems)


def last_k(evaluated_rounds: int) -> int:
    """Return k, the number of last evaluated rounds that are averaged: a fifth of all, from 1 to 10."""
    return min(10, max(1, evaluated_rounds // 5))


def last_k_accuracy(accuracies: Sequence[float]) -> float:
    """Return the mean of the last k of a run's test accuracies, one per evaluated round; NaN without any."""
    tail = accuracies[-last_k(len(accuracies)) :]
    return sum(tail) / len(tail) if len(tail) else math.nan


def read_rows(path: Path) -> list[Row]:
    """Return the complete rows of a table without their empty cells; empty if the file cannot be read.

    Numbers are int or float. It does without pandas.
    """
    try:
        lines = path.read_text(encoding="utf-8").rpartition("\n")[0]
        rows = [row for row in csv.DictReader(io.StringIO(lines)) if None not in row and None not in row.values()]
    except (OSError, ValueError, csv.Error):
        return []
    return [{name: _value(name, cell) for name, cell in row.items() if cell} for row in rows]


def _value(column: str, cell: str) -> int | float | str:
    if column in TEXT_COLUMNS:
        return cell
    try:
        return int(cell) if cell.lstrip("-").isdigit() else float(cell)
    except ValueError:
        return cell


def _read_required(path: Path, problems: list[str]) -> "pd.DataFrame | None":
    """Return a table as `read_table` does; None, with a sentence, also if it lacks a required column."""
    table = read_table(path, problems)
    if table is None or not (missing := [name for name in REQUIRED_COLUMNS.get(path.name, ()) if name not in table]):
        return table
    problems.append(f"'{path}' has no column {', '.join(missing)}.")
    return None


def read_table(
    path: Path, problems: list[str], columns: Sequence[str] = (), number: int | None = None,
    optional: Sequence[str] = (),
) -> "pd.DataFrame | None":  # fmt: skip
    """Return a table's `columns`, by default all, and the `optional` ones; None if it cannot be read.

    `number` selects the rows of one round. Keys are int64, other numbers float64 with NaN for empty cells, texts str.
    A sentence for each kind of damage is appended to `problems`: a table that differs from its checksum, invalid rows
    and an incomplete last line are left out, missing columns are filled with NaN or empty text. Optional columns may be
    missing without a sentence.
    """
    import pandas as pd

    try:
        check_checksum(path)
        content = path.read_bytes().rpartition(b"\n")[0] + b"\n"
        header = content.partition(b"\n")[0].decode(errors="replace").strip().split(",")
        table = pd.read_csv(  # a class may be called `nan`
            io.BytesIO(content if number is None else _from_round(content, number)), encoding_errors="replace",
            dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False,
            na_values={name: ["", "nan"] for name in header if name not in TEXT_COLUMNS},
        )  # fmt: skip
    except OSError as error:
        problems.append(f"'{path}' cannot be read ({error.strerror}).")
        return None
    except SpecError as error:
        problems.append(str(error))
        return None
    except ValueError as error:  # pandas' own errors are ValueErrors
        problems.append(f"'{path}' is damaged ({str(error).strip().rstrip('.')}).")
        return None
    if missing := [name for name in columns if name not in table]:
        problems.append(f"'{path}' has no column {', '.join(missing)}.")
        if {*missing} & {*KEY_COLUMNS}:
            return None
    missing += [name for name in optional if name not in table]
    table = table.assign(**{name: "" if name in TEXT_COLUMNS else math.nan for name in missing})
    table = _without_invalid(table[[*columns, *optional] if columns else list(table.columns)], path, problems)
    return table if number is None else table[table["round"] == number]


def _from_round(content: bytes, number: int) -> bytes:
    """The header and the lines from the first one of this round."""
    header, _, _ = content.partition(b"\n")
    start = content.find(b"\n%d," % number)
    return header + content[start:] if start >= 0 else header


def _without_invalid(table: "pd.DataFrame", path: Path, problems: list[str]) -> "pd.DataFrame":
    import pandas as pd

    masks = {name: _is_invalid(name, table[name]) for name in table.columns if name not in TEXT_COLUMNS}
    invalid = {name: mask for name, mask in masks.items() if mask.any()}
    if invalid:
        left_out = pd.DataFrame(invalid).any(axis=1)
        examples = ", ".join(f"{name} is {table.loc[mask, name].iloc[0]}" for name, mask in invalid.items())
        problems.append(
            f"'{path}' has invalid values ({examples}); {left_out.sum()} of {len(table)} rows are left out."
        )
        table = table[~left_out]
    keys = {name: "int64" for name in KEY_COLUMNS if name in table}
    return (
        table.astype(dict.fromkeys(masks, "float64"))
        .astype(keys)
        .fillna({name: "" for name in TEXT_COLUMNS if name in table})
    )


def _is_invalid(name: str, cells: "pd.Series[float]") -> "pd.Series[bool]":
    import pandas as pd

    values = pd.to_numeric(cells, errors="coerce")
    invalid = values.isna() & cells.notna()
    if name in KEY_COLUMNS:
        return invalid | values.isna() | (values < 0) | (values % 1 != 0)
    if "accuracy" in name:
        return invalid | (values < 0) | (values > 1)
    return invalid | ((values < 0) | (values == math.inf) if name.startswith(AMOUNT_PREFIXES) else False)


def read_json(path: Path, problems: list[str]) -> Row:
    """Return the object in a JSON file; empty if there is no file or, with a sentence in `problems`, it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        check_checksum(path)
    except FileNotFoundError:
        return {}
    except SpecError as error:
        problems.append(str(error))
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"'{path}' is damaged ({error}) and is ignored.")
        return {}
    if not isinstance(document, dict):
        problems.append(f"'{path}' is damaged (it is not an object) and is ignored.")
        return {}
    return document


def _costs(file: Path, problems: list[str]) -> Row:
    costs = flatten(read_json(file, problems))
    return {name: value for name, value in costs.items() if not name.startswith("teacher.entries")}
