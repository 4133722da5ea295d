"""One actor of a sweep, which runs trials one after another. The tests call it in this process."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
from helpers.trials import check_trial, make_study, modification_times, run_rounds
from ray import tune

from fedray.backends.ray.shared_objects import SharedObjects
from fedray.errors import RunError
from fedray.study.study import Outcome, Study, Trial
from fedray.study.tune.trainable import FedTrainable, StudyContext

pytestmark = pytest.mark.ray
OpenTrial = Callable[[Study, Trial], Any]


@pytest.fixture(scope="module")
def shared_objects(ray_cluster: None) -> Iterator[Any]:  # noqa: ARG001
    actor: Any = ray.remote(SharedObjects).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)


@pytest.fixture
def open_trial(shared_objects: Any, tmp_path: Path) -> Iterator[OpenTrial]:
    """`open_trial(study, trial)` gives the trial to the trainable and returns the trainable."""
    trainables: list[Any] = []

    def open_(study: Study, trial: Trial) -> Any:
        context = StudyContext(study, {"CPU": 1}, shared_objects, tmp_path / "cache", ["fedray"], str(tmp_path))
        if trainables:
            trainables[0]._context = context  # the study may be another one
            assert trainables[0].reset(study.tune_config(trial))
        else:
            trainables.append(tune.with_parameters(FedTrainable, context=context)(study.tune_config(trial)))
        return trainables[0]

    yield open_
    trainables[0].stop()


def train(trainable: Any, steps: int) -> list[tuple[int, bool]]:
    """Return round and `done` of the next steps."""
    return [(result["round"], result["done"]) for result in (trainable.train() for _ in range(steps))]


def test_started_trial_replays_earlier_rounds_and_resumes(open_trial: OpenTrial, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"seed": {"grid": [0]}})
    (trial,) = study.trials()
    run_rounds(trial, 2)
    trainable = open_trial(study, trial)
    results = [trainable.train() for _ in range(3)]
    assert [(result["round"], result["done"]) for result in results] == [(1, False), (2, False), (3, True)]
    assert [result["training_iteration"] for result in results] == [1, 2, 3]
    check_trial(trial, tmp_path / "alone")
    rows = pd.read_csv(trial.folder.path / "rounds.csv")
    assert [result["test_accuracy"] for result in results] == rows["test_accuracy"].tolist()
    assert (results[2]["last_k"], results[2]["last_k_accuracy"]) == (1, rows["test_accuracy"].iloc[-1])


def test_ended_trials_replay_their_rounds_and_write_nothing(open_trial: OpenTrial, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"seed": {"grid": [0, 1]}}, {"scheduler": "asha"})
    finished, stopped = study.trials()
    run_rounds(finished, 3)
    run_rounds(stopped, 1)
    stopped.record_outcome(Outcome("stopped", 1, "asha"))
    before = modification_times(study.folder)
    assert train(open_trial(study, finished), 3) == [(1, False), (2, False), (3, True)]
    assert train(open_trial(study, stopped), 1) == [(1, True)]
    assert modification_times(study.folder) == before
    assert stopped.outcome == Outcome("stopped", 1, "asha")


def test_stopped_trial_resumes_without_the_scheduler(open_trial: OpenTrial, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"seed": {"grid": [0]}})
    (trial,) = study.trials()
    run_rounds(trial, 1)
    trial.record_outcome(Outcome("stopped", 1, "asha"))
    trainable = open_trial(study, trial)
    assert trial.state == "stopped"
    assert trainable.train()["round"] == 1
    assert trial.state == "started"  # before a new round starts
    assert train(trainable, 2) == [(2, False), (3, True)]
    check_trial(trial, tmp_path / "alone")


def test_trial_without_final_weights_is_completed(open_trial: OpenTrial, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"seed": {"grid": [0]}})
    (trial,) = study.trials()
    run_rounds(trial, 3)
    trial.folder.model.unlink()  # as if killed after the last round, before the weights were written
    assert trial.state == "started"
    assert train(open_trial(study, trial), 3) == [(1, False), (2, False), (3, True)]
    check_trial(trial, tmp_path / "alone")


def test_invalid_trial_is_rejected(open_trial: OpenTrial, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"partition.clients": {"grid": [101]}})
    study.describe(["fedray"])
    (trial,) = study.trials()
    result = open_trial(study, trial).train()
    assert (result["done"], result["round"], "seconds" in result) == (True, 0, False)
    assert result["refused"] == "partition.clients is 101, but there are only 100 training examples."
    assert trial.outcome is None  # recorded by the sweep's process, which can surely write the folder


def test_failed_trial_records_its_traceback(open_trial: OpenTrial, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"training.optimizer.lr": {"grid": [1e9]}})
    study.describe(["fedray"])
    (trial,) = study.trials()
    with pytest.raises(RunError, match="client 0 failed in round 1"):
        open_trial(study, trial).train()
    assert trial.outcome is not None
    assert (trial.outcome.state, trial.outcome.round) == ("failed", 0)
    assert "RepeatableError: client 0 failed in round 1" in trial.outcome.traceback
    assert "\n" not in trial.outcome.reason


def test_missing_study_folder_creates_nothing(open_trial: OpenTrial, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"seed": {"grid": [0]}})
    result = open_trial(study, study.trials()[0]).train()
    assert result["refused"].endswith(f"on node {platform.node()}: choose a --results that all nodes share.")
    assert not (tmp_path / "results").exists()


def test_one_actor_runs_trials_one_after_another(open_trial: OpenTrial, tmp_path: Path) -> None:
    study = make_study(tmp_path, {"seed": {"grid": [0, 1]}})
    study.describe(["fedray"])
    for trial in study.trials():
        assert train(open_trial(study, trial), 3) == [(1, False), (2, False), (3, True)]
        check_trial(trial, tmp_path / f"alone {trial.name}")
