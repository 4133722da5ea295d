"""Studies of small trials that tests run, and comparisons with runs outside a study."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from safetensors.numpy import load_file

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.config.loader import read
from fedray.server.driver import Driver
from fedray.study.study import Study, Trial

BASE: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 100, "test_limit": 40},
    "partition": {"kind": "iid", "clients": 3},
    "training": {"rounds": 3, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "resources": {"backend": "serial"},
}
"""The experiment of a study, without its axes."""


def write_space(folder: Path, space: dict[str, Any], search: dict[str, Any] | None = None, **base: Any) -> Path:
    """Write study.yaml. Its trials run one at a time, so that one actor runs them all."""
    document = {"base": {**BASE, **base}, "space": space, "search": {"max_concurrent": 1, **(search or {})}}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def make_study(folder: Path, space: dict[str, Any], search: dict[str, Any] | None = None, **base: Any) -> Study:
    """Write study.yaml and return its study, with results in `folder`."""
    return Study(read(write_space(folder, space, search, **base)), folder / "results")


def run_rounds(trial: Trial, rounds: int) -> None:
    """Run the first rounds of a trial, as an earlier sweep does."""
    trial.start()
    (trial.folder.path.parent / "study.json").touch()
    driver = Driver(trial.experiment, trial.folder.path, SerialBackend).run()
    for _ in range(rounds):
        next(driver)
    if rounds == trial.experiment.training.rounds:
        list(driver)
    driver.close()


def final_weights(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each array of a finished run."""
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


def run_alone(experiment: Experiment, folder: Path) -> dict[str, bytes]:
    """Run an experiment in this process, outside a study. Return its final weights."""
    list(Driver(experiment, folder, SerialBackend).run())
    return final_weights(folder)


def check_trial(trial: Trial, folder: Path) -> None:
    """Check that a trial has the weights and tables of the same run outside a study, which runs in `folder`."""
    assert final_weights(trial.folder.path) == run_alone(trial.experiment, folder)
    ours, alone = (pd.read_csv(path / "rounds.csv") for path in (trial.folder.path, folder))
    assert ours["round"].tolist() == list(range(1, trial.experiment.training.rounds + 1))
    metrics = ["test_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy", "clients", "bytes_up"]
    pd.testing.assert_frame_equal(ours[metrics], alone[metrics])
    for name, column in (("clients", "client"), ("classes", "class")):
        ours, alone = (pd.read_csv(path / f"{name}.csv")[["round", column]] for path in (trial.folder.path, folder))
        pd.testing.assert_frame_equal(ours, alone)


def modification_times(folder: Path) -> dict[str, int]:
    """Return the modification time of each file in the trials of a study."""
    trials = [path for path in folder.glob("*-*/") if path.is_dir()]
    files = [file for path in trials for file in path.rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def count_rounds(folder: Path) -> int:
    """Return the number of rounds in the tables of a study's trials."""
    count = 0
    for file in folder.glob("*/rounds.csv"):
        with file.open() as lines:
            count += max(0, len(list(csv.reader(lines))) - 1)
    return count
