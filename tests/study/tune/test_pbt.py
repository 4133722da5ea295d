"""Members of a population: what they take over, and that it can be followed."""

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
        "space": {"training.lr": {"grid": RATES}},
        "search": {"scheduler": "pbt", "grace": 2, "mutations": {"training.lr": RATES}, **search},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(document))
    return read(folder / "study.yaml")


def run(trial: Trial, rounds: int) -> None:
    """So many rounds more."""
    driver = Driver(trial.experiment, trial.folder.path, SerialBackend).run()
    for _ in range(rounds):
        next(driver)
    driver.close()


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_member_takes_over_weights_and_the_rounds_that_led_to_them(tmp_path: Path) -> None:
    donor, taker = Study(space(tmp_path), tmp_path / "results").trials()[2:0:-1]
    (tmp_path / "between").mkdir()
    run(donor, 4)
    run(taker, 2)
    pbt.save(donor, tmp_path / "between")
    run(donor, 1)  # which the copy does not see
    pbt.load(tmp_path / "between", taker)
    assert taker.round == 4
    assert [row["round"] for row in table(taker.folder.path / "rounds.csv")] == ["1", "2", "3", "4"]
    assert table(taker.folder.path / "rounds.csv") == table(donor.folder.path / "rounds.csv")[:4]
    assert table(taker.folder.path / "lineage.csv") == [
        {"after_round": "4", "from": donor.name, "training.lr": "0.001"}
    ]


def test_its_own_state_is_no_change(tmp_path: Path) -> None:
    trial = Study(space(tmp_path), tmp_path / "results").trials()[0]
    (tmp_path / "between").mkdir()
    run(trial, 2)
    pbt.save(trial, tmp_path / "between")
    pbt.load(tmp_path / "between", trial)
    assert trial.round == 2
    assert not (trial.folder.path / "lineage.csv").exists()


def test_a_member_goes_on_with_the_values_it_has_now(tmp_path: Path) -> None:
    of = Study(space(tmp_path), tmp_path / "results")
    first, second, *_ = of.trials()
    config = {**of.tune_config(first), "training.lr": 0.05}
    member = of.trial_of_config(config, first.name)
    assert (member.name, member.experiment.training.lr, member.folder.path) == (first.name, 0.05, first.folder.path)
    member.start()
    again = Study(space(tmp_path), tmp_path / "results")
    assert again.tune_config(again.trials()[0]) == config  # after a crash, too
    assert again.tune_config(second) == {"trial": second.name, "training.lr": 0.001}


@pytest.mark.parametrize("mutations", [{"training.momentum": [0.1, 0.9]}, {"training.lr": RATES, "seed": [1, 2]}])
def test_every_axis_changes_and_nothing_else(tmp_path: Path, mutations: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"search\.mutations and the space must name the same fields"):
        space(tmp_path, mutations=mutations)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_worst_goes_on_from_the_best(tmp_path: Path) -> None:
    from fedray.study.tune.sweep import sweep

    of = Study(space(tmp_path), tmp_path / "results")
    trials = sweep(of)
    assert [trial.state for trial in trials] == ["finished"] * 4
    lineages = {trial.name: _lineage(trial) for trial in trials}
    assert any(lineages.values()), "somebody has taken over"
    for trial in trials:
        assert [row["round"] for row in table(trial.folder.path / "rounds.csv")] == [str(n) for n in range(1, 7)]
    followed = [name for name, rows in lineages.items() if len(rows) == 1 and not lineages[rows[0]["from"]]]
    assert followed, "whose weights came straight from a member that has taken over nothing"
    for name in followed:
        (change,) = lineages[name]
        assert _again(of, change, tmp_path / name) == _weights(of.folder / name)


def _lineage(trial: Trial) -> list[dict[str, str]]:
    file = trial.folder.path / "lineage.csv"
    return table(file) if file.exists() else []


def _again(of: Study, change: dict[str, str], folder: Path) -> bytes:
    """The donor's rounds and then the taker's, by themselves in this process."""
    donor = next(trial for trial in of.trials() if trial.name == change["from"])
    values = of.trial({"training.lr": float(change["training.lr"])})
    driver = Driver(donor.experiment, folder, SerialBackend).run()
    for _ in range(int(change["after_round"])):
        next(driver)
    driver.close()
    list(Driver(values.experiment, folder, SerialBackend).run())
    return _weights(folder)


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
