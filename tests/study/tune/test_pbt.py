"""Members of a population: copies of weights and rounds, and the record of them in lineage.csv."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedray.backends.serial import SerialBackend
from fedray.config.loader import Space, read
from fedray.errors import SpecError
from fedray.server.driver import Driver
from fedray.study.study import Study, Trial
from fedray.study.tune import pbt

RATES = [0.0001, 0.001, 0.05, 0.1]


def space(folder: Path, rounds: int = 6, **search: Any) -> Space:
    document = {
        "base": {
            "data": {"train": "digits", "test": "digits", "train_limit": 100, "test_limit": 40},
            "partition": {"kind": "iid", "clients": 2},
            "training": {"rounds": rounds, "batch_size": 16},
            "resources": {"backend": "serial"},
        },
        "space": {"training.optimizer.lr": {"grid": RATES}},
        "search": {"scheduler": "pbt", "grace": 2, "mutations": {"training.optimizer.lr": RATES}, **search},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(document))
    return read(folder / "study.yaml")


def run(trial: Trial, rounds: int) -> None:
    """Run the next rounds of a trial."""
    driver = Driver(trial.experiment, trial.folder.path, SerialBackend).run()
    for _ in range(rounds):
        next(driver)
    driver.close()


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_member_copies_weights_and_rounds_of_another(tmp_path: Path) -> None:
    donor, receiver = Study(space(tmp_path), tmp_path / "results").trials()[2:0:-1]
    (tmp_path / "copy").mkdir()
    run(donor, 4)
    run(receiver, 2)
    pbt.save(donor, tmp_path / "copy")
    run(donor, 1)  # after the copy
    pbt.load(tmp_path / "copy", receiver)
    assert receiver.round == 4
    assert [row["round"] for row in table(receiver.folder.path / "rounds.csv")] == ["1", "2", "3", "4"]
    assert table(receiver.folder.path / "rounds.csv") == table(donor.folder.path / "rounds.csv")[:4]
    assert table(receiver.folder.path / "lineage.csv") == [
        {"after_round": "4", "from": donor.name, "training.optimizer.lr": "0.001"}
    ]


def test_loading_its_own_state_adds_no_lineage(tmp_path: Path) -> None:
    trial = Study(space(tmp_path), tmp_path / "results").trials()[0]
    (tmp_path / "copy").mkdir()
    run(trial, 2)
    pbt.save(trial, tmp_path / "copy")
    pbt.load(tmp_path / "copy", trial)
    assert trial.round == 2
    assert not (trial.folder.path / "lineage.csv").exists()


def test_member_resumes_with_its_current_values(tmp_path: Path) -> None:
    study = Study(space(tmp_path), tmp_path / "results")
    first, second, *_ = study.trials()
    config = {**study.tune_config(first), "training.optimizer.lr": 0.05}
    member = study.trial_of_config(config, first.name)
    assert (member.name, member.experiment.training.optimizer.lr, member.folder.path) == (
        first.name,
        0.05,
        first.folder.path,
    )
    member.start()
    resumed = Study(space(tmp_path), tmp_path / "results")
    assert resumed.tune_config(resumed.trials()[0]) == config
    assert resumed.tune_config(second) == {"trial": second.name, "training.optimizer.lr": 0.001}


@pytest.mark.parametrize(
    "mutations", [{"training.optimizer.momentum": [0.1, 0.9]}, {"training.optimizer.lr": RATES, "seed": [1, 2]}]
)
def test_mutations_must_name_the_axes_of_the_space(tmp_path: Path, mutations: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"search\.mutations and the space must name the same fields"):
        space(tmp_path, mutations=mutations)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_worst_member_copies_the_best(tmp_path: Path) -> None:
    from fedray.study.tune.sweep import sweep

    rounds = 24  # members run at the same time, though their processes start seconds apart
    study = Study(space(tmp_path, rounds, grace=8), tmp_path / "results")
    trials = sweep(study)
    assert [trial.state for trial in trials] == ["finished"] * 4
    lineages = {trial.name: _lineage(trial) for trial in trials}
    assert any(lineages.values()), "no member copied another"
    for trial in trials:
        numbers = [int(row["round"]) for row in table(trial.folder.path / "rounds.csv")]
        assert numbers == list(range(1, rounds + 1))
    copied_once = [name for name, rows in lineages.items() if len(rows) == 1 and not lineages[rows[0]["from"]]]
    assert copied_once, "no member copied one that has itself copied nothing"
    for name in copied_once:
        (change,) = lineages[name]
        assert _run_lineage(study, change, tmp_path / name) == _weights(study.folder / name)


def _lineage(trial: Trial) -> list[dict[str, str]]:
    file = trial.folder.path / "lineage.csv"
    return table(file) if file.exists() else []


def _run_lineage(study: Study, change: dict[str, str], folder: Path) -> bytes:
    """Run the donor's rounds, then the receiver's, outside a study. Return the final weights."""
    donor = next(trial for trial in study.trials() if trial.name == change["from"])
    receiver = study.trial({"training.optimizer.lr": float(change["training.optimizer.lr"])})
    driver = Driver(donor.experiment, folder, SerialBackend).run()
    for _ in range(int(change["after_round"])):
        next(driver)
    driver.close()
    list(Driver(receiver.experiment, folder, SerialBackend).run())
    return _weights(folder)


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
