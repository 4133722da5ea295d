"""A study on disk: identity and state of its trials, and the table of them."""

import csv
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from fedray.config.loader import read
from fedray.errors import SpecError
from fedray.results.environment import read_environment, write_environment
from fedray.results.loader import load_results
from fedray.server.driver import Driver
from fedray.study.study import Outcome, Study, Trial, last_metrics

BASE: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 100, "test_limit": 20},
    "partition": {"kind": "iid", "clients": 2},
    "training": {"rounds": 3, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "resources": {"backend": "serial"},
}
LR = {"training.optimizer.lr": {"grid": [0.05, 0.1]}}
SEEDS = {"seed": {"grid": [0, 1, 2, 3, 4, 5]}}


def study(tmp_path: Path, space: dict[str, Any], search: dict[str, Any] | None = None, **base: Any) -> Study:
    document = {"base": {**BASE, **base}, "space": space, "search": search or {}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return Study(read(tmp_path / "study.yaml"), tmp_path / "results")


def run(trial: Trial, rounds: int | None = None) -> None:
    """Run a number of rounds as a sweep does; all of them by default."""
    trial.start()
    driven = Driver(trial.experiment, trial.folder.path).run()
    if rounds is None:
        list(driven)
    for _ in range(rounds or 0):
        next(driven)
    driven.close()


def states(found: Study) -> dict[str, str]:
    return {trial.label: trial.state for trial in found.trials()}


def table(found: Study) -> pd.DataFrame:
    return pd.read_csv(found.folder / "trials.csv").set_index("trial")


def test_plain_experiment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(BASE))
    with pytest.raises(SpecError, match=r"one.yaml is one experiment, not a space of them: use fedray run\.$"):
        Study(read(tmp_path / "one.yaml"), tmp_path)


def test_states_and_pending_trials(tmp_path: Path) -> None:
    asha = study(tmp_path, SEEDS, {"scheduler": "asha"})
    pending, started, finished, stopped, by_median, failed = asha.trials()
    run(started, rounds=2)
    run(finished)
    run(stopped, rounds=1)
    stopped.record_outcome(Outcome("stopped", 1, "asha"))
    run(by_median, rounds=1)
    by_median.record_outcome(Outcome("stopped", 1, "median"))
    failed.record_outcome(Outcome("failed", 0, "it broke", "a node", "Traceback: ..."))
    expected = ["pending", "started", "finished", "stopped", "stopped", "failed"]
    assert list(states(asha).values()) == list(states(study(tmp_path, SEEDS)).values()) == expected
    assert [trial.round for trial in asha.trials()] == [0, 2, 3, 1, 1, 0]
    assert [asha.is_pending(trial) for trial in asha.trials()] == [True, True, False, False, True, True]
    without = study(tmp_path, SEEDS)
    assert [without.is_pending(trial) for trial in without.trials()] == [True, True, False, True, True, True]
    assert failed.outcome == Outcome("failed", 0, "it broke", "a node", "Traceback: ...")
    assert pending.outcome is None
    assert not pending.folder.path.exists()


def test_restarted_trial_is_neither_stopped_nor_failed(tmp_path: Path) -> None:
    first, second = study(tmp_path, LR).trials()
    first.record_outcome(Outcome("failed", 0, "it broke"))
    first.start()
    run(second, rounds=1)
    second.record_outcome(Outcome("stopped", 1, "asha"))
    second.start()
    assert [first.state, second.state] == ["pending", "started"]
    (second.folder.path / "outcome.json").write_text('{"state": "stop')  # truncated
    assert second.state == "started"


def test_trial_is_found_by_its_key_under_another_label(tmp_path: Path) -> None:
    first, second = study(tmp_path, LR).trials()
    run(first)
    run(second, rounds=1)
    more = study(tmp_path, {**LR, "seed": {"grid": [0, 7]}}, resources={"backend": "ray"}, checkpoint={"every": 2})
    assert states(more) == {
        "lr=0.05, seed=0": "finished",
        "lr=0.05, seed=7": "pending",
        "lr=0.1, seed=0": "started",
        "lr=0.1, seed=7": "pending",
    }
    found = more.trials()
    assert [trial.folder.path for trial in found[::2]] == [first.folder.path, second.folder.path]
    assert [trial.name for trial in found[::2]] == [first.name, second.name]
    assert found[1].name.startswith("lr=0.05,seed=7-")
    longer = study(tmp_path, LR, training={**BASE["training"], "rounds": 4})
    assert set(states(longer).values()) == {"pending"}


def test_existing_trials_are_points_of_the_current_space(tmp_path: Path) -> None:
    for trial in study(tmp_path, {**LR, "seed": {"grid": [0, 1]}}).trials():
        trial.start()
    (tmp_path / "results/study/of-nothing").mkdir()
    assert len(study(tmp_path, {**LR, "seed": {"grid": [0, 1]}}).existing_trials()) == 4

    def labels(space: dict[str, Any], **base: Any) -> list[str]:
        return sorted(trial.label for trial in study(tmp_path, space, **base).existing_trials())

    strategies = {"strategy.name": {"grid": ["fedavg", "fedprox"]}}
    assert labels({**LR, **strategies}) == ["lr=0.05, strategy=fedavg", "lr=0.1, strategy=fedavg"]  # those of seed 0
    assert labels(LR, seed=1) == ["lr=0.05", "lr=0.1"]
    assert labels({"training.optimizer.lr": {"grid": [0.1, 0.2]}}) == ["lr=0.1"]
    assert labels({"training.optimizer.lr": {"uniform": [0.01, 0.07]}, "seed": {"randint": [1, 9]}}) == [
        "lr=0.05, seed=1"
    ]
    zipped = labels({"training.optimizer.lr": {"zip": [0.05, 0.1]}, "seed": {"zip": [1, 0]}})
    assert zipped == [
        "lr=0.05, seed=1",
        "lr=0.1, seed=0",
    ]
    assert labels(LR, strategy={"name": "fedprox"}) == []


def test_trials_that_the_space_no_longer_allows_are_ignored(tmp_path: Path) -> None:
    alphas = {"partition.alpha": {"grid": [0.1, 1]}}
    for trial in study(tmp_path, alphas, partition={"kind": "dirichlet"}).trials():
        trial.start()
    kinds = {"partition.kind": {"grid": ["iid", "dirichlet"]}}
    only = {"partition.alpha": {"grid": [0.1], "when": {"partition.kind": "dirichlet"}}}
    (trial,) = study(tmp_path, {**kinds, **only}, partition={"kind": "dirichlet"}).existing_trials()
    assert trial.label == "partition=dirichlet, alpha=0.1"
    assert study(tmp_path, {**LR, **alphas}, partition={"kind": "iid"}).existing_trials() == []  # iid has no alpha


def test_proposed_trials_are_found_on_disk(tmp_path: Path) -> None:
    proposed = {"training.optimizer.lr": {"uniform": [0.01, 0.1]}}
    space = study(tmp_path, proposed, {"algorithm": "optuna", "samples": 3})
    assert space.trials() == space.existing_trials() == []
    run(space.trial({"training.optimizer.lr": 0.03}), rounds=1)
    (trial,) = study(tmp_path, proposed, {"algorithm": "optuna", "samples": 3}).existing_trials()
    assert (trial.assignment, trial.round, trial.experiment.training.optimizer.lr) == (
        {"training.optimizer.lr": 0.03},
        1,
        0.03,
    )


def test_history_ends_at_the_last_checkpoint(tmp_path: Path) -> None:
    often = {"checkpoint": {"every": 2}, "evaluation": {"every": 2}, "training": {**BASE["training"], "rounds": 4}}
    (trial,) = study(tmp_path, {"seed": {"grid": [0]}}, **often).trials()
    assert trial.history() == []
    run(trial, rounds=2)
    before = trial.history()
    run(trial, rounds=1)  # after the checkpoint, as if the process were killed
    shutil.rmtree(trial.folder.checkpoint / "round-00003")
    file = trial.folder.path / "rounds.csv"
    with file.open(newline="") as lines:
        written = list(csv.DictReader(lines))
    assert [row["round"] for row in written] == ["1", "2", "3"]
    history = trial.history()
    assert history == before
    assert [row["round"] for row in history] == [1, 2]
    assert "test_accuracy" not in history[0]  # evaluated every second round
    assert history[1]["test_accuracy"] == float(written[1]["test_accuracy"])
    assert (history[1]["clients"], history[1]["seconds"]) == (2, float(written[1]["seconds"]))
    whole = file.read_text()
    for torn in ("4,0.5", "1", "2,0.3,", "\n\n", "ro", "4,0.5,0.5\n4,"):
        file.write_text(whole + torn)
        assert trial.history() == history, torn
    run(trial)
    assert [row["round"] for row in trial.history()] == [1, 2, 3, 4]


def test_last_metrics() -> None:
    rows = [
        {"round": n, "test_accuracy": n / 100, "test_loss": 2 - n / 10, "worst_class_accuracy": 0.0}
        for n in range(1, 13)
    ]
    metrics = last_metrics([*rows, {"round": 13, "clients": 2}])
    assert metrics["test_accuracy"] == 0.12
    assert metrics["test_loss"] == pytest.approx(0.8)
    assert (metrics["last_k_accuracy"], metrics["last_k"]) == (pytest.approx(0.115), 2)  # of 0.11 and 0.12
    assert metrics["rare_class_accuracy"] != metrics["rare_class_accuracy"]  # NaN: never evaluated
    assert last_metrics(rows[:3])["last_k_accuracy"] == pytest.approx(0.03)
    assert all(value != value for name, value in last_metrics([{"round": 1}]).items() if name != "last_k")


def test_table_has_a_row_per_trial(tmp_path: Path) -> None:
    strategies = {"strategy": {"grid": [{"name": "fedavg"}, {"name": "fedprox", "mu": 0.1}]}}
    found = study(tmp_path, {**strategies, **LR})
    finished, started, failed, pending = found.trials()
    run(finished)
    run(started, rounds=2)
    failed.record_outcome(Outcome("failed", 0, "it broke"))
    found.write_table(found.trials(), {finished.name: 1.5})
    rows = table(found)
    assert rows.index.tolist() == [trial.name for trial in (finished, started, failed, pending)]
    assert rows["strategy.name"].tolist() == ["fedavg", "fedavg", "fedprox", "fedprox"]
    assert rows["training.optimizer.lr"].tolist() == [0.05, 0.1, 0.05, 0.1]
    assert rows["strategy.mu"].isna().tolist() == [True, True, False, False]
    assert rows["state"].tolist() == ["finished", "started", "failed", "pending"]
    assert rows["round"].tolist() == [3, 2, 0, 0]
    assert rows["reason"].fillna("").tolist() == ["", "", "it broke", ""]
    assert rows["startup_seconds"].fillna(-1).tolist() == [1.5, -1, -1, -1]
    for trial in (finished, started):
        rounds = pd.read_csv(trial.folder.path / "rounds.csv")
        for name in ("test_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy"):
            assert rows.loc[trial.name, name] == rounds[name].iloc[-1]
        assert rows.loc[trial.name, "last_k_accuracy"] == pytest.approx(rounds["test_accuracy"].iloc[-1])
        assert rows.loc[trial.name, "seconds"] == pytest.approx(rounds["seconds"].sum(), abs=1e-3)
    assert rows.loc[pending.name, ["test_accuracy", "last_k_accuracy"]].isna().all()


def test_table_is_updated_as_trials_end(tmp_path: Path) -> None:
    found = study(tmp_path, LR, {"scheduler": "asha"})
    first, second = found.trials()
    run(first)
    found.write_table(found.trials())
    assert table(found)["state"].tolist() == ["finished", "pending"]
    run(second, rounds=1)
    second.record_outcome(Outcome("stopped", 1, "asha"))
    found.write_table(found.trials())
    rows = table(found)
    assert rows["state"].tolist() == ["finished", "stopped"]
    assert rows["round"].tolist() == [3, 1]
    assert (
        rows.loc[second.name, "test_accuracy"]
        == pd.read_csv(second.folder.path / "rounds.csv")["test_accuracy"].iloc[-1]
    )
    assert rows.loc[second.name, "reason"] == "asha"


def test_table_keeps_startup_seconds_of_earlier_sweeps(tmp_path: Path) -> None:
    with study(tmp_path, LR).lock():
        pass  # creates the folder
    found = study(tmp_path, LR)
    first, second = found.trials()
    found.write_table([first, second], {first.name: 2.25})
    again = study(tmp_path, LR)
    again.write_table(again.trials(), {second.name: 0.125})
    assert table(again)["startup_seconds"].tolist() == [2.25, 0.125]
    again.write_table(again.trials(), {first.name: 0.5})
    assert table(again)["startup_seconds"].tolist() == [0.5, 0.125]


def test_second_sweep_of_a_study_is_refused(tmp_path: Path) -> None:
    first, second = study(tmp_path, LR), study(tmp_path, LR)
    with first.lock():
        with pytest.raises(SpecError) as caught, second.lock():
            pass
        folder = tmp_path / "results" / "study"
        assert str(caught.value) == (
            f"'{folder}' is being written by another sweep; wait for it, or choose another --results."
        )
    with second.lock():
        pass


def test_study_json_shows_that_a_node_finds_the_folder(tmp_path: Path) -> None:
    found = study(
        tmp_path,
        {"training.optimizer.lr": {"grid": [0.05]}, "seed": {"zip": [1, 2], "when": {"training.optimizer.lr": 0.05}}},
    )
    with pytest.raises(SpecError) as caught:
        found.check_shared()
    assert str(caught.value) == (
        f"'{tmp_path}/results/study' does not exist on node {platform.node()}: choose a --results that all nodes share."
    )
    with found.lock():
        found.describe(["fedray", "sweep", "study.yaml"])
        found.check_shared()
    written = json.loads((found.folder / "study.json").read_text())
    assert written["command"] == ["fedray", "sweep", "study.yaml"]
    assert written["base"] == BASE
    assert written["space"] == {
        "training.optimizer.lr": {"grid": [0.05], "when": {}},
        "seed": {"zip": [1, 2], "when": {"training.optimizer.lr": 0.05}},
    }
    assert written["search"]["algorithm"] == "grid"


@pytest.mark.parametrize("written", ['{"file": "study.yaml"}', '{"format": 1}', "[]"])
def test_study_of_another_format_is_refused(tmp_path: Path, written: str) -> None:
    with study(tmp_path, LR).lock():
        pass  # creates the folder
    (tmp_path / "results" / "study" / "study.json").write_text(written)
    with pytest.raises(SpecError, match=r"has results in .*format.*; this fedray reads and writes format 2") as caught:
        study(tmp_path, LR)
    assert "\n" not in str(caught.value)


def test_run_of_another_format_is_refused(tmp_path: Path) -> None:
    trial, _ = study(tmp_path, LR).trials()
    run(trial, rounds=1)
    document = read_environment(trial.folder.path)
    assert document.pop("format") == 2
    write_environment(trial.folder.path, document)
    for refused in (lambda: trial.folder.check(trial.experiment), lambda: load_results(tmp_path)):
        with pytest.raises(SpecError, match="has results in an earlier format"):
            refused()


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_unfinished_run_without_its_environment_is_refused(tmp_path: Path, content: str | None) -> None:
    """Its files would not be compared, and contents that have changed would be mixed in."""
    trial, _ = study(tmp_path, LR).trials()
    run(trial, rounds=1)
    file = trial.folder.path / "environment.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(SpecError, match=r"environment\.json is missing or damaged"):
        trial.folder.check(trial.experiment)
