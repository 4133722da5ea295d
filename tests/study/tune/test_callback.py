"""The callback of a sweep: outcomes, table and display lines, also of trials whose process is lost."""

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from helpers.trials import make_study, modification_times, run_rounds

from fedray.cli.sweep_progress import SweepProgress
from fedray.study.study import Outcome, Study
from fedray.study.tune.callback import ProgressCallback
from fedray.study.tune.display import SweepSize


class TuneTrial(SimpleNamespace):
    """The attributes of Tune's trial that the callback reads."""

    trial_id: str
    config: dict[str, Any]
    last_result: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        return str(self.config["trial"])

    def get_error(self) -> Exception:
        return RuntimeError("The actor died: SIGKILL")


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def watched(tmp_path: Path, out: io.StringIO) -> tuple[Study, ProgressCallback]:
    """A study of two trials and the callback of its sweep."""
    study = make_study(tmp_path, {"seed": {"grid": [0, 1]}}, {"scheduler": "asha"})
    display = SweepProgress("study", study.space.search, SweepSize(2, 0, 6), out=out)
    with study.lock():
        return study, ProgressCallback(study, display, study.trials(), None)


def test_trial_fails_if_its_process_is_lost_before_it_starts(
    watched: tuple[Study, ProgressCallback], out: io.StringIO
) -> None:
    study, callback = watched
    first, second = study.trials()
    trial: Any = TuneTrial(trial_id="a", config=study.tune_config(first))
    callback.on_trial_recover(0, [], trial)
    callback.on_trial_recover(0, [], trial)
    callback.on_trial_error(0, [], trial)
    assert first.outcome == Outcome("failed", 0, "its process was lost", traceback="The actor died: SIGKILL")
    assert out.getvalue().splitlines() == [
        "[0/2] seed=0: failed, will be retried: its process was lost",
        "[0/2] seed=0: failed, will be retried: its process was lost",
        "[1/2] seed=0: failed: its process was lost",
    ]
    assert pd.read_csv(study.folder / "trials.csv")["state"].tolist() == ["failed", "pending"]
    assert second.state == "pending"


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_replaying_an_ended_trial_keeps_its_state(
    watched: tuple[Study, ProgressCallback], out: io.StringIO, state: str
) -> None:
    study, callback = watched
    first, _ = study.trials()
    run_rounds(first, 3 if state == "finished" else 1)
    if state == "stopped":
        first.record_outcome(Outcome("stopped", 1, "asha"))
    before = modification_times(study.folder)
    trial: Any = TuneTrial(trial_id="a", config=study.tune_config(first))
    callback.on_trial_start(0, [], trial)
    callback.on_trial_result(0, [], trial, {"round": 1, "seconds": 1.0, "test_accuracy": 0.5})
    callback.on_trial_recover(0, [], trial)
    callback.on_trial_error(0, [], trial)
    callback.on_trial_complete(0, [], trial)
    assert first.state == state
    assert modification_times(study.folder) == before
    assert out.getvalue() == ""


def test_rejected_trial_is_marked_failed_by_the_callback(
    watched: tuple[Study, ProgressCallback], out: io.StringIO
) -> None:
    study, callback = watched
    first, _ = study.trials()
    refused = {"refused": "it cannot be.", "hostname": "a node", "round": 0, "test_accuracy": float("nan")}
    trial: Any = TuneTrial(trial_id="a", config=study.tune_config(first), last_result=refused)
    callback.on_trial_start(0, [], trial)
    callback.on_trial_result(0, [], trial, refused)
    callback.on_trial_complete(0, [], trial)
    assert first.outcome == Outcome("failed", 0, "it cannot be.", "a node")
    assert out.getvalue() == "[1/2] seed=0: failed: it cannot be.\n"
