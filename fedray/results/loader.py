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

from fedray.config.experiment import EXECUTION_SECTIONS
from fedray.config.values import canonical
from fedray.config.yaml_files import flatten, read_yaml
from fedray.errors import SpecError
from fedray.results.run_folder import RunFolder
from fedray.results.storage import storage_of
from fedray.results.writer import AMOUNT_PREFIXES, FAULTS_COLUMNS, KEY_COLUMNS, TEXT_COLUMNS
from fedray.types import Row

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """The tables of one run or several. Each has a column `run` and one for each spec field that varies.

    Each table raises SpecError if no run has it or a file cannot be read; other damage is described in `problems`.
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
        return self._read("rounds.csv")

    @cached_property
    def clients(self) -> "pd.DataFrame":
        """One row per run, round and client of its cohort."""
        return self._read("clients.csv")

    @cached_property
    def classes(self) -> "pd.DataFrame":
        """One row per run, evaluated round and class."""
        return self._read("classes.csv")

    @cached_property
    def partition(self) -> "pd.DataFrame":
        """One row per run, client and class that the client holds."""
        return self._read("partition.csv")

    @cached_property
    def faults(self) -> "pd.DataFrame":
        """One row per run and fault that it recovered from."""
        import pandas as pd

        exists = any((folder / "faults.csv").exists() for folder in self.folders.values())
        return self._read("faults.csv") if exists else pd.DataFrame(columns=["run", *FAULTS_COLUMNS])

    @cached_property
    def costs(self) -> "pd.DataFrame":
        """One row per finished run: the fields of costs.json (`teacher.forward_passes` ...) without cache entries."""
        import pandas as pd

        files = {run: folder / "costs.json" for run, folder in self.folders.items()}
        rows = [{"run": run, **_costs(file)} for run, file in files.items() if file.exists()]
        table = pd.DataFrame(rows, columns=None if rows else ["run"])
        return table.join(self.varied, on="run")

    def _read(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        files = {run: folder / name for run, folder in self.folders.items() if (folder / name).exists()}
        if not files:
            raise SpecError(f"no {name} exists in {', '.join(map(str, self.folders.values()))}.")
        tables = {run: read_table(file, self.problems) for run, file in files.items()}
        readable = {run: table for run, table in tables.items() if table is not None}
        if len(readable) < len(tables):
            raise SpecError(self.problems[-1])
        table = pd.concat(readable, names=["run"]).copy().reset_index(level="run").reset_index(drop=True)
        return table.join(self.varied, on="run")


def load_results(path: str | Path) -> Results:
    """Return the results of one run, or of every run below a folder or URI, finished or not.

    Raises SpecError if there is no run.
    """
    folders = run_folders(path)
    return Results(folders, specs_table({run: read_spec(folder) for run, folder in folders.items()}))


def run_folders(path: str | Path) -> dict[str, Path]:
    """Return the local folder of every run below a folder or URI, by relative path (`.` for `path` itself).

    A URI is downloaded first, without weights. Raises SpecError if there is no run.
    """
    storage = storage_of(path)
    storage.pull(exclude="*.safetensors")
    folders = [spec.parent for spec in sorted(storage.folder.rglob("spec.yaml")) if _is_run(spec.parent)]
    if not folders:
        raise SpecError(f"'{storage}' holds no results.")
    for folder in folders:
        RunFolder(folder).check_format()
    return {str(folder.relative_to(storage.folder)): folder for folder in folders}


def read_spec(folder: Path) -> Row:
    """Return the fields of a run's spec by dotted name; a list is returned as text. Raises SpecError.

    Floats are rounded to 15 significant digits, so that 0.1 + 0.2 and 0.3 are one setting.
    """
    fields = {name: canonical(value) for name, value in flatten(read_yaml(folder / "spec.yaml")).items()}
    return {name: str(value) if isinstance(value, list) else value for name, value in fields.items()}


def specs_table(specs: Mapping[str, Row]) -> "pd.DataFrame":
    """Return one row per run and one column per spec field.

    A column with a null is of dtype object and holds None; NaN marks a field that the run's spec does not have.
    """
    import pandas as pd

    table = pd.DataFrame(list(specs.values()), index=pd.Index(specs, name="run"), dtype=object)
    typed = [str(column) for column in table if not any(value is None for value in table[column])]
    table[typed] = table[typed].infer_objects()
    return table


def varying_fields(specs: "pd.DataFrame", *, with_seed: bool = False) -> list[str]:
    """Return the fields, by default without the seed, that have several values among the runs whose spec has them.

    Null is a value, also that of a section; a field that only some strategies have does not vary by that alone. Fields
    that leave results unchanged (resources and the like) and the rounds of evaluation are not considered.
    """
    ignored = (*EXECUTION_SECTIONS, "evaluation")
    fields = [name for name in map(str, specs.columns) if "." in name and name.split(".")[0] not in ignored]
    return [name for name in [*(["seed"] if with_seed else []), *fields] if _varies(name, specs)]


def _varies(name: str, specs: "pd.DataFrame") -> bool:
    values = specs[name].dropna().astype(str).nunique()
    parents = [name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)]
    is_null = any(value is None for parent in parents if parent in specs for value in specs[parent])
    return values > 1 or (values == 1 and is_null)


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


def read_table(
    path: Path, problems: list[str], columns: Sequence[str] = (), number: int | None = None
) -> "pd.DataFrame | None":
    """Return a table's `columns`, by default all; None if it cannot be read.

    `number` selects the rows of one round. Keys are int64, other numbers float64 with NaN for empty cells, texts str.
    A sentence for each kind of damage is appended to `problems`: invalid rows and an incomplete last line are left out,
    missing columns are filled with NaN or empty text.
    """
    import pandas as pd

    try:
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
    except ValueError as error:  # pandas' own errors are ValueErrors
        problems.append(f"'{path}' is damaged ({str(error).strip().rstrip('.')}).")
        return None
    if missing := [name for name in columns if name not in table]:
        problems.append(f"'{path}' has no column {', '.join(missing)}.")
        if {*missing} & {*KEY_COLUMNS}:
            return None
    table = table.assign(**{name: "" if name in TEXT_COLUMNS else math.nan for name in missing})
    table = _without_invalid(table[list(columns) or list(table.columns)], path, problems)
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
    if name.endswith("accuracy"):
        return invalid | (values < 0) | (values > 1)
    return invalid | ((values < 0) | (values == math.inf) if name.startswith(AMOUNT_PREFIXES) else False)


def read_json(path: Path, problems: list[str]) -> Row:
    """Return the object in a JSON file; empty if there is no file or, with a sentence in `problems`, it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"'{path}' is damaged ({error}) and is ignored.")
        return {}
    if not isinstance(document, dict):
        problems.append(f"'{path}' is damaged (it is not an object) and is ignored.")
        return {}
    return document


def _costs(file: Path) -> Row:
    problems: list[str] = []
    costs = flatten(read_json(file, problems))
    if problems:
        raise SpecError(problems[0])
    return {name: value for name, value in costs.items() if not name.startswith("teacher.entries")}


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("environment.json", "rounds.csv"))
