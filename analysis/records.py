"""What is on disk of one study or several, as DataFrames.

A file that is damaged costs its own rows and no more, and is named with the line in `problems`.
"""

import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import csv_files
from analysis.csv_files import Columns
from fedray.config.yaml_files import flatten, read_yaml
from fedray.errors import SpecError
from fedray.results.loader import run_folders
from fedray.results.storage import is_uri, storage_of

ROUNDS = Columns((
    "round", "test_accuracy", "test_loss",
    "worst_class_accuracy", "rare_class_accuracy", "failed_clients", "update_norm",
    "update_drift", "update_cosine", "seconds", "bytes_down", "bytes_up",
    "teacher_outputs_used", "teacher_forward_passes",
    "teacher_flops", "teacher_seconds",
), once=True)  # fmt: skip
CLASSES = Columns(("round", "class", "examples", "test_accuracy"), ("class_name",))
CLIENTS = Columns(("round", "client", "examples", "train_accuracy", "update_norm", "seconds"))
CONFUSION = Columns(("class", "predicted_class", "examples"))
PARTITION = Columns(("client", "class", "examples"), ("class_name",))
TRIALS = Columns((), ("trial", "state", "reason"))
KNOWN = {"seed": int, "training.rounds": int, "strategy.name": str, "partition.kind": str}
"""What every spec says, and no run can be understood without."""
NUMBERS = ("strategy.lam", "partition.alpha", "partition.classes_per_client")
"""What runs are ordered and drawn by, where they have it."""


@dataclass(frozen=True)
class Records:
    """The tables of many runs. `runs` has a row per run, the others a column `run`.

    `runs` has every field of the spec by its dotted name (`strategy.lam`), and `study`, `folder`, `command`
    (which repeats it), `commit`, `teacher_accuracy`, `client_flops` (of proxies and private models). Accuracies are
    shares from 0 to 1.
    """

    runs: pd.DataFrame
    trials: pd.DataFrame  # `study`, `trial`, `state`, `reason`: what sweeps say of their trials
    problems: list[str] = field(default_factory=list)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """A row per run and round; `run` is categorical."""
        return self._stacked(self.runs.index, ROUNDS, lambda run: self._read(run, "rounds.csv", ROUNDS))

    def classes(self, runs: Iterable[str], until: "pd.Series[int] | None" = None) -> pd.DataFrame:
        """Per class, of the last evaluated round, or the last up to a run's round in `until`.

        Columns `class`, `class_name`, `examples`, `test_accuracy`.
        """
        return self._last(runs, "classes.csv", CLASSES, until)

    def clients(self, runs: Iterable[str], until: "pd.Series[int] | None" = None) -> pd.DataFrame:
        """Per client of the last round's cohort, or of the last up to a run's round in `until`."""
        return self._last(runs, "clients.csv", CLIENTS, until)

    def partition(self, runs: Iterable[str]) -> pd.DataFrame:
        """Per client and class that it holds: `client`, `class` (its index), `class_name`, `examples`."""
        return self._stacked(runs, PARTITION, lambda run: self._read(run, "partition.csv", PARTITION))

    def confusion(self, runs: Iterable[str], model: str) -> pd.DataFrame:
        """Per class and what it was taken for by the `proxy` (test set) or the `teacher` (clients' examples)."""
        name = f"confusion-{model}.csv"
        there = [run for run in runs if (self.folder(run) / name).exists()]
        return self._stacked(there, CONFUSION, lambda run: self._read(run, name, CONFUSION))

    def folder(self, run: str) -> Path:
        return Path(str(self.runs.at[run, "folder"]))

    def _read(self, run: str, name: str, columns: Columns) -> pd.DataFrame | None:
        return csv_files.read(self.folder(run) / name, columns, self.problems)

    def _last(self, runs: Iterable[str], name: str, columns: Columns, until: "pd.Series[int] | None") -> pd.DataFrame:
        """At most up to the last round in rounds.csv, which is written when all else of a round is."""
        whole = self.rounds.groupby("run", observed=True)["round"].max() if until is None else until
        return self._stacked(
            runs,
            columns,
            lambda run: csv_files.read_last_round(
                self.folder(run) / name, columns, self.problems, until=whole.get(run, math.inf)
            ),
        )

    def _stacked(
        self, runs: Iterable[str], columns: Columns, read: Callable[[str], pd.DataFrame | None]
    ) -> pd.DataFrame:
        frames = {run: read(run) for run in runs}
        return stacked({run: frame for run, frame in frames.items() if frame is not None}, columns.names)


def load(*places: str | Path) -> Records:
    """Every run below some folders or URIs, finished or not.

    Raises SpecError where there is none, or where one is named twice.
    """
    problems: list[str] = []
    studies = {study: _find(place) for study, place in zip(_names(places), places, strict=True)}
    _check_once([folder for _, folders in studies.values() for folder in folders.values()])
    rows: dict[str, dict[str, Any]] = {}
    trials: list[pd.DataFrame] = []
    for study, (root, folders) in studies.items():
        for name, folder in folders.items():
            if row := _run(study, folder, problems):
                rows[study if name == "." else f"{study}/{name}" if len(places) > 1 else name] = row
        problems += [f"'{folder}' has rounds.csv and no spec.yaml: it is left out." for folder in _nameless(root)]
        above = [folder.parent for name, folder in folders.items() if name != "."]
        trials += [_trials(study, folder, problems) for folder in dict.fromkeys([root, *above])]
    if not rows:
        raise SpecError(f"no run can be read: {problems[0]}")
    return Records(_table(rows), pd.concat(trials, ignore_index=True), problems)


def _find(place: str | Path) -> tuple[Path, dict[str, Path]]:
    """Where a study is on this machine, and the folders of its runs."""
    if not is_uri(place) and not (place and Path(place).is_dir()):
        wrong = "is a file, not a folder of results" if Path(place).is_file() else "does not exist"
        raise SpecError(f"'{place}' {wrong}.")
    storage = storage_of(place)
    storage.pull(without="*.safetensors")
    if not (found := run_folders(storage.folder)):
        raise SpecError(f"'{storage}' holds no results.")
    return storage.folder, found


def _nameless(root: Path) -> Iterator[Path]:
    """Folders of runs that have lost their spec."""
    return (rounds.parent for rounds in sorted(root.rglob("rounds.csv")) if not rounds.with_name("spec.yaml").exists())


def _check_once(folders: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for folder in map(Path.resolve, folders):
        if folder in seen:
            raise SpecError(f"'{folder}' is named twice.")
        seen.add(folder)


def _table(rows: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A column that is null somewhere holds objects: null is a value, and no run that lacks the field has it."""
    table = pd.DataFrame(list(rows.values()), index=pd.Index(rows, name="run"), dtype=object)
    typed = [str(column) for column in table if not any(cell is None for cell in table[column])]
    table[typed] = table[typed].infer_objects()
    return table


def stacked(frames: dict[str, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """One below the other, with a categorical column `run`."""
    if not frames:
        return pd.DataFrame({"run": pd.Categorical([]), **{column: np.empty(0) for column in columns}})
    table = pd.concat(list(frames.values()), ignore_index=True)
    codes = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames.values()])
    runs = pd.Series(pd.Categorical.from_codes(codes, pd.Index(list(frames), dtype="str")), name="run")
    return pd.concat([runs, table], axis=1)


def _names(places: Sequence[str | Path]) -> list[str]:
    """What the studies are called: the last parts of their paths that tell them apart."""
    paths = [Path(str(place).partition("?")[0] if is_uri(place) else Path(place).absolute()) for place in places]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len({*names}) == len(names):
            return names
    raise SpecError(f"'{places[0]}' is named twice.")


def _run(study: str, folder: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        spec = flatten(read_yaml(folder / "spec.yaml"))
    except SpecError as error:
        problems.append(f"{str(error).rstrip('.')}: the run is left out.")
        return None
    if unusable := [*_unusable(spec)]:
        problems.append(f"'{folder / 'spec.yaml'}': {', '.join(unusable)}; the run is left out.")
        return None
    cells = {name: str(cell) if isinstance(cell, list) else cell for name, cell in spec.items()}
    environment = _read_json(folder / "environment.json", problems)
    costs = flatten(_read_json(folder / "costs.json", problems))
    return {
        **cells,
        "study": study,
        "folder": str(folder),
        "command": f"fedray run {shlex.quote(str(folder / 'spec.yaml'))} --results again",
        "commit": str(environment.get("commit") or ""),
        "teacher_accuracy": _share(environment, "teacher_accuracy", folder / "environment.json", problems),
        "client_flops": _number(costs.get("proxy.flops")) + _number(costs.get("private.flops", 0)),
    }


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    """Empty where it is not there yet, or damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"'{path}' is damaged ({error}); what it says is not known.")
        return {}
    if not isinstance(document, dict):
        problems.append(f"'{path}' is damaged (it is no object); what it says is not known.")
        return {}
    return document


def _unusable(spec: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the fields that reports are made by."""
    for name, kind in KNOWN.items():
        if name not in spec:
            yield f"{name} is missing"
        elif type(spec[name]) is not kind or (kind is int and spec[name] < (name == "training.rounds")):
            yield f"{name} is {spec[name]!r}"
    for name in NUMBERS:
        if spec.get(name) is not None and not math.isfinite(_number(spec[name])):
            yield f"{name} is {spec[name]!r}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _share(document: dict[str, Any], name: str, path: Path, problems: list[str]) -> float:
    """NaN where it is not there, or no share from 0 to 1."""
    value = document.get(name)
    if value is not None and not 0 <= _number(value) <= 1:
        problems.append(f"'{path}': {name} is {value!r}, which is not a share from 0 to 1.")
        return math.nan
    return _number(value)


def _trials(study: str, root: Path, problems: list[str]) -> pd.DataFrame:
    path = root / "trials.csv"
    table = csv_files.read(path, TRIALS, problems) if path.exists() else None
    return (pd.DataFrame(columns=list(TRIALS.names)) if table is None else table).assign(study=study)
