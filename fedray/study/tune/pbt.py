"""What members of a population take from one another: weights, and the rounds that led to them."""

import csv
import json
import shutil
from pathlib import Path

from fedray.study.study import Trial

TABLES = ("rounds.csv", "clients.csv", "classes.csv", "lineage.csv")
"""`lineage.csv`: from which round on, whose weights, and with which values."""


def save(trial: Trial, target: Path) -> None:
    """Copy what a trial has come to."""
    for name in TABLES:
        if (trial.folder.path / name).exists():
            shutil.copy(trial.folder.path / name, target / name)
    shutil.copytree(trial.folder.checkpoint, target / "checkpoint", dirs_exist_ok=True)
    (target / "from.json").write_text(json.dumps({"trial": trial.name, "choice": trial.choice}), encoding="utf-8")


def load(source: Path, trial: Trial) -> None:
    """Put a copy in place of what the trial has: its tables then tell how its weights came to be."""
    origin = json.loads((source / "from.json").read_text(encoding="utf-8"))
    shutil.rmtree(trial.folder.checkpoint, ignore_errors=True)
    shutil.copytree(source / "checkpoint", trial.folder.checkpoint)
    for name in TABLES:
        (trial.folder.path / name).unlink(missing_ok=True)
        if (source / name).exists():
            shutil.copy(source / name, trial.folder.path / name)
    if origin != {"trial": trial.name, "choice": trial.choice}:
        _note(trial, origin["trial"])


def _note(trial: Trial, origin: str) -> None:
    file = trial.folder.path / "lineage.csv"
    begun = file.exists()
    with file.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        if not begun:
            writer.writerow(["after_round", "from", *trial.choice])
        writer.writerow([trial.round, origin, *trial.choice.values()])
