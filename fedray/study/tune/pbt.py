"""Population-based training: copies weights, and the tables of the rounds that led to them, between members."""

import csv
import json
import shutil
from pathlib import Path

from fedray.errors import writing
from fedray.files import replace_text, replacing
from fedray.study.study import Trial

TABLES = ("rounds.csv", "clients.csv", "classes.csv", "client_accuracy.csv", "lineage.csv")
"""lineage.csv has a row per copy: the round it was made after, the member copied from, the new values."""


def save(trial: Trial, target: Path) -> None:
    """Copy a member's checkpoint and tables to a folder."""
    for name in TABLES:
        if (trial.folder.path / name).exists():
            shutil.copy(trial.folder.path / name, target / name)
    shutil.copytree(trial.folder.checkpoint, target / "checkpoint", dirs_exist_ok=True)
    replace_text(target / "origin.json", json.dumps(_origin(trial)))


def load(source: Path, trial: Trial) -> None:
    """Replace a member's checkpoint and tables by a saved copy, and note the copy in lineage.csv."""
    origin = json.loads((source / "origin.json").read_text(encoding="utf-8"))
    shutil.rmtree(trial.folder.checkpoint, ignore_errors=True)
    shutil.copytree(source / "checkpoint", trial.folder.checkpoint)
    for name in TABLES:
        if (source / name).exists():
            with writing(trial.folder.path / name), replacing(trial.folder.path / name) as partial:
                shutil.copy(source / name, partial)
        else:
            (trial.folder.path / name).unlink(missing_ok=True)
    if origin != _origin(trial):
        _append_lineage(trial, origin["trial"])


def _origin(trial: Trial) -> dict[str, object]:
    return {"trial": trial.name, "assignment": trial.assignment}


def _append_lineage(trial: Trial, origin: str) -> None:
    file = trial.folder.path / "lineage.csv"
    has_header = file.exists()
    with writing(file), file.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        if not has_header:
            writer.writerow(["after_round", "from", *trial.assignment])
        writer.writerow([trial.round, origin, *trial.assignment.values()])
