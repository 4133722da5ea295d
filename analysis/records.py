"""What is on disk of one study or several, as DataFrames.

A file that is damaged costs its own rows and no more, and is named with the line in `problems`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import csv_files
from fedray.errors import SpecError
from fedray.results import run_folders
from fedray.spec_file import flatten, read_yaml
from fedray.storage import storage_of

ROUNDS = (
    "round", "accuracy", "loss", "worst_class_accuracy", "rare_class_accuracy", "failed", "update_norm",
    "update_drift", "update_cosine", "seconds", "bytes_down", "bytes_up", "teacher_asked", "teacher_passes",
    "teacher_flops", "teacher_seconds",
)  # fmt: skip
SHARES = ("accuracy", "worst_class_accuracy", "rare_class_accuracy", "local_accuracy")
CLASSES = ("round", "class", "examples", "accuracy")
CLIENTS = ("round", "client", "examples", "local_accuracy", "update_norm", "seconds")
CONFUSION = ("class", "predicted", "examples")


@dataclass(frozen=True)
class Records:
    """The tables of many runs. `runs` has a row per run, the others a column `run`.

    `runs` has every field of the spec by its dotted name (`strategy.lam`), and `study`, `folder`, `command`
    (which repeats it), `commit`, `teacher_accuracy`, `proxy_flops`. Accuracies are shares from 0 to 1.
    """

    runs: pd.DataFrame
    trials: pd.DataFrame  # `study`, `trial`, `state`, `reason`: what sweeps say of their trials
    problems: list[str] = field(default_factory=list)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """A row per run and round; `run` is categorical."""
        frames = {run: self._read(run, "rounds.csv", ROUNDS) for run in self.runs.index}
        return stacked({run: frame for run, frame in frames.items() if frame is not None}, ROUNDS)

    def classes(self, runs: Iterable[str]) -> pd.DataFrame:
        """Per class, of the last evaluated round: `class`, `name`, `examples`, `accuracy`."""
        return self._last(runs, "classes.csv", CLASSES, ("name",))

    def clients(self, runs: Iterable[str]) -> pd.DataFrame:
        """Per client of the last round's cohort."""
        return self._last(runs, "clients.csv", CLIENTS, ())

    def partition(self, runs: Iterable[str]) -> pd.DataFrame:
        """Per client and class that it holds: `client`, `class` (its place), `name`, `examples`."""
        frames = {run: csv_files.read_counts(self.folder(run) / "partition.csv", self.problems) for run in runs}
        return stacked(
            {run: frame for run, frame in frames.items() if frame is not None}, ("client", "class", "examples")
        )

    def confusion(self, runs: Iterable[str], model: str) -> pd.DataFrame:
        """Per class and what it was taken for by the `proxy` (test set) or the `teacher` (clients' examples)."""
        frames = {run: self._read(run, f"confusion-{model}.csv", CONFUSION, quiet=True) for run in runs}
        return stacked({run: frame for run, frame in frames.items() if frame is not None}, CONFUSION)

    def folder(self, run: str) -> Path:
        return Path(str(self.runs.at[run, "folder"]))

    def _last(self, runs: Iterable[str], name: str, numbers: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
        found = {run: csv_files.read_last_round(self.folder(run) / name, numbers, texts, self.problems) for run in runs}
        return stacked({run: frame for run, frame in found.items() if frame is not None}, (*numbers, *texts))

    def _read(self, run: str, name: str, numbers: Sequence[str], *, quiet: bool = False) -> pd.DataFrame | None:
        path = self.folder(run) / name
        if quiet and not path.exists():
            return None
        return csv_files.read(path, numbers, (), self.problems, SHARES)


def load(*places: str | Path) -> Records:
    """Every run below some folders or URIs, finished or not.

    Raises SpecError where there is none.
    """
    problems: list[str] = []
    rows: dict[str, dict[str, Any]] = {}
    trials: list[pd.DataFrame] = []
    for place, study in zip(places, _names(places), strict=True):
        storage = storage_of(place)
        storage.pull(without="*.safetensors")
        found = run_folders(storage.folder)
        if not found:
            raise SpecError(f"'{storage}' holds no results.")
        for name, folder in found.items():
            if row := _run(study, folder, problems):
                rows[study if name == "." else f"{study}/{name}" if len(places) > 1 else name] = row
        trials.append(_trials(study, storage.folder, problems))
    if not rows:
        raise SpecError(f"no run can be read: {problems[0]}")
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run").infer_objects()
    return Records(table, pd.concat(trials, ignore_index=True), problems)


def stacked(frames: dict[str, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """One below the other, with a categorical column `run`."""
    if not frames:
        return pd.DataFrame(columns=["run", *columns])
    table = pd.concat(list(frames.values()), ignore_index=True)
    codes = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames.values()])
    runs = pd.Series(pd.Categorical.from_codes(codes, pd.Index(list(frames), dtype="str")), name="run")
    return pd.concat([runs, table], axis=1)


def _names(places: Sequence[str | Path]) -> list[str]:
    """What the studies are called: the last parts of their paths that tell them apart."""
    paths = [
        Path(str(place).rstrip("/")).absolute() if "://" not in str(place) else Path(str(place)) for place in places
    ]
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
    cells = {name: str(cell) if isinstance(cell, list) else cell for name, cell in spec.items()}
    environment = _read_json(folder / "environment.json", problems)
    costs = flatten(_read_json(folder / "costs.json", problems))
    return {
        **cells,
        "study": study,
        "folder": str(folder),
        "command": f"fedray run '{folder / 'spec.yaml'}' --results again",
        "commit": environment.get("commit"),
        "teacher_accuracy": environment.get("teacher_accuracy"),
        "proxy_flops": costs.get("proxy.flops"),
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
    return document if isinstance(document, dict) else {}


def _trials(study: str, root: Path, problems: list[str]) -> pd.DataFrame:
    columns = ("trial", "state", "reason")
    path = root / "trials.csv"
    table = csv_files.read(path, (), columns, problems) if path.exists() else None
    return (pd.DataFrame(columns=columns) if table is None else table).assign(study=study)
