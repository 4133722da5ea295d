"""Loads one study or several, as DataFrames.

Damage does not stop a report: a damaged file loses its own rows only, and is described in `problems`.
"""

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fedray.config.yaml_files import flatten
from fedray.errors import SpecError
from fedray.results.checksums import checksum_problems
from fedray.results.folders import run_folders
from fedray.results.loader import read_json, read_table
from fedray.results.mixtures import mixtures
from fedray.results.run_folder import RunFolder
from fedray.results.specs import is_complete, read_spec, specs_table
from fedray.results.storage import is_uri
from fedray.types import Row

ROUNDS = (
    "round", "test_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy", "failed_clients",
    "update_norm", "update_drift", "update_cosine", "seconds", "bytes_down", "bytes_up", "teacher_outputs_used",
    "teacher_forward_passes", "teacher_flops", "teacher_seconds",
)  # fmt: skip
ADDED = ("client_accuracy", "client_accuracy_std", "client_accuracy_worst_tenth", "evaluated_model")
"""Columns of rounds.csv that runs of earlier versions lack."""
CLASSES = ("round", "class", "class_name", "examples", "test_accuracy")
CLIENTS = ("round", "client", "examples", "train_accuracy", "update_norm", "seconds")
CONFUSION = ("class", "predicted_class", "examples")
PARTITION = ("client", "class", "class_name", "examples")
TRIALS = ("trial", "state", "reason")
REQUIRED_FIELDS = {"seed": int, "training.rounds": int, "strategy.name": str, "partition.kind": str}
"""Fields that every spec has, with their types."""
NUMERIC_FIELDS = ("strategy.lam", "partition.alpha", "partition.classes_per_client")
"""Optional fields by which runs are sorted and drawn."""


@dataclass(frozen=True)
class Records:
    """The tables of many runs. `runs` has one row per run, the other tables have a column `run`.

    `runs` has every field of the spec by dotted name (`strategy.lam`) and `study`, `folder`, `command` (repeats the
    run), `commit`, `teacher_accuracy`, `client_flops` (of all models of a client). Accuracies are shares, 0 to 1.
    """

    runs: pd.DataFrame
    trials: pd.DataFrame  # `study`, `trial`, `state`, `reason`, as in the sweeps' trials.csv
    problems: list[str] = field(default_factory=list)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row per run and round; `run` is categorical."""
        return self._tables(self.runs.index, "rounds.csv", ROUNDS, optional=ADDED)

    def classes(self, runs: Iterable[str], rounds: "pd.Series[int] | None" = None) -> pd.DataFrame:
        """One row per run and class, of the run's round in `rounds` (by default its last evaluated round)."""
        evaluated = self.rounds[self.rounds["test_accuracy"].notna()]
        return self._of_round(runs, "classes.csv", CLASSES, _last_round(evaluated) if rounds is None else rounds)

    def clients(self, runs: Iterable[str], rounds: "pd.Series[int] | None" = None) -> pd.DataFrame:
        """One row per run and client of the cohort, of the run's round in `rounds` (by default its last one)."""
        return self._of_round(runs, "clients.csv", CLIENTS, _last_round(self.rounds) if rounds is None else rounds)

    def partition(self, runs: Iterable[str]) -> pd.DataFrame:
        """One row per run, client and class that the client holds."""
        return self._tables(runs, "partition.csv", PARTITION)

    def confusion(self, runs: Iterable[str], model: str) -> pd.DataFrame:
        """One row per class and predicted class of the `proxy` (test set) or the `teacher` (clients' examples)."""
        name = f"confusion-{model}.csv"
        return self._tables([run for run in runs if (self.folder(run) / name).exists()], name, CONFUSION)

    def folder(self, run: str) -> Path:
        """Return the folder of a run on this machine."""
        return Path(str(self.runs.at[run, "folder"]))

    def _of_round(
        self, runs: Iterable[str], name: str, columns: Sequence[str], rounds: "pd.Series[int]"
    ) -> pd.DataFrame:
        return self._tables([run for run in runs if run in rounds.index], name, columns, rounds)

    def _tables(
        self, runs: Iterable[str], name: str, columns: Sequence[str], rounds: "pd.Series[int] | None" = None,
        optional: Sequence[str] = (),
    ) -> pd.DataFrame:  # fmt: skip
        numbers = {run: None if rounds is None else int(rounds[run]) for run in runs}
        tables = {
            run: read_table(self.folder(run) / name, self.problems, columns, number, optional)
            for run, number in numbers.items()
        }
        found = {run: table for run, table in tables.items() if table is not None}
        return _stacked(found, [*columns, *optional])


def load(*places: str | Path) -> Records:
    """Return the records of every run below some folders or URIs, finished or not.

    Raises SpecError if there is no run, or if a folder is given twice.
    """
    problems: list[str] = []
    studies = {study: _find_runs(place, problems) for study, place in zip(_study_names(places), places, strict=True)}
    _check_distinct([folder for folders in studies.values() for folder in folders.values()])
    runs: dict[str, Row] = {}
    trials: list[pd.DataFrame] = []
    for study, folders in studies.items():
        for name, folder in folders.items():
            problems += checksum_problems(folder)
            if row := _run_row(study, folder, problems):
                runs[study if name == "." else f"{study}/{name}" if len(places) > 1 else name] = row
        root = _root(folders)
        parents = [folder.parent for name, folder in folders.items() if name != "."]
        trials += [_read_trials(study, folder, problems) for folder in dict.fromkeys([root, *parents])]
    if not runs:
        raise SpecError(f"no run can be read: {problems[0]}")
    problems += mixtures((RunFolder(Path(row["folder"])).identity, row) for row in runs.values())
    return Records(specs_table(runs), pd.concat(trials, ignore_index=True), problems)


def _find_runs(place: str | Path, problems: list[str]) -> dict[str, Path]:
    if not is_uri(place) and not (place and Path(place).is_dir()):
        wrong = "is a file, not a folder of results" if Path(place).is_file() else "does not exist"
        raise SpecError(f"'{place}' {wrong}.")
    return run_folders(place, problems)


def _root(folders: dict[str, Path]) -> Path:
    """The folder to which the names of the runs are relative."""
    name, folder = next(iter(folders.items()))
    return folder if name == "." else folder.parents[len(Path(name).parts) - 1]


def _check_distinct(folders: Sequence[Path]) -> None:
    checked: set[Path] = set()
    for folder in map(Path.resolve, folders):
        if folder in checked:
            raise SpecError(f"'{folder}' is given twice.")
        checked.add(folder)


def _stacked(tables: dict[str, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """The tables of several runs in one, with a categorical column `run`."""
    if not tables:
        return pd.DataFrame({"run": pd.Categorical([]), **{column: np.empty(0) for column in columns}})
    table = pd.concat(list(tables.values()), ignore_index=True)
    codes = np.repeat(np.arange(len(tables)), [len(part) for part in tables.values()])
    runs = pd.Series(pd.Categorical.from_codes(codes, pd.Index(list(tables), dtype="str")), name="run")
    return pd.concat([runs, table], axis=1)


def _last_round(rounds: pd.DataFrame) -> "pd.Series[int]":
    return rounds.groupby("run", observed=True)["round"].max()


def _study_names(places: Sequence[str | Path]) -> list[str]:
    """Names of studies: as many last parts of their paths as distinguish them."""
    paths = [Path(str(place).partition("?")[0] if is_uri(place) else Path(place).absolute()) for place in places]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len({*names}) == len(names):
            return names
    raise SpecError(f"'{places[0]}' is given twice.")


def _run_row(study: str, folder: Path, problems: list[str]) -> Row | None:
    """A run's row of `Records.runs`; None, with a problem, if its spec cannot be used."""
    try:
        spec = read_spec(folder)
    except SpecError as error:
        problems.append(f"{str(error).rstrip('.')}: the run is left out.")
        return None
    if invalid := [*_invalid_fields(spec)]:
        problems.append(f"'{folder / 'spec.yaml'}': {', '.join(invalid)}; the run is left out.")
        return None
    if not is_complete(folder, spec):
        problems.append(f"'{folder / 'spec.yaml'}' is incomplete: the run is left out.")
        return None
    environment = read_json(folder / "environment.json", problems)
    costs = flatten(read_json(folder / "costs.json", problems))
    return {
        **spec,
        "study": study,
        "folder": str(folder),
        "command": f"fedray run {shlex.quote(str(folder / 'spec.yaml'))} --results again",
        "commit": str(environment.get("commit") or ""),
        "teacher_accuracy": _share(environment, "teacher_accuracy", folder / "environment.json", problems),
        "client_flops": _number(costs.get("proxy.flops"))
        + sum(_number(costs.get(f"{model}.flops", 0)) for model in ("private", "frozen")),
    }


def _invalid_fields(spec: Row) -> Iterator[str]:
    """Descriptions of missing or invalid fields among those that reports use."""
    for name, kind in REQUIRED_FIELDS.items():
        if name not in spec:
            yield f"{name} is missing"
        elif type(spec[name]) is not kind or (kind is int and spec[name] < (name == "training.rounds")):
            yield f"{name} is {spec[name]!r}"
    for name in NUMERIC_FIELDS:
        if spec.get(name) is not None and not math.isfinite(_number(spec[name])):
            yield f"{name} is {spec[name]!r}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _share(document: Row, name: str, path: Path, problems: list[str]) -> float:
    """A share from 0 to 1; NaN if it is missing or, with a problem, out of range."""
    value = document.get(name)
    if value is not None and not 0 <= _number(value) <= 1:
        problems.append(f"'{path}': {name} is {value!r}, which is not a share from 0 to 1.")
        return math.nan
    return _number(value)


def _read_trials(study: str, root: Path, problems: list[str]) -> pd.DataFrame:
    path = root / "trials.csv"
    table = read_table(path, problems, TRIALS) if path.exists() else None
    return (pd.DataFrame(columns=list(TRIALS)) if table is None else table).assign(study=study)
