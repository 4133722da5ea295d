"""`fedray sweep` on Ray: nothing is lost, nothing is repeated, and each trial is the run it would be by itself."""

import csv
import io
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import ray
import yaml
from helpers.processes import actors, wait_for
from ray import tune
from safetensors.numpy import load_file

from fedray.backends.ray.shared_objects import SharedObjects
from fedray.backends.serial import SerialBackend
from fedray.cli.main import main
from fedray.cli.sweep_progress import SweepProgress
from fedray.config.experiment import Experiment
from fedray.config.loader import read
from fedray.data.federated import read_datasets
from fedray.data.sections import Data
from fedray.errors import RunError
from fedray.server.driver import Driver
from fedray.study.study import Outcome, Study, Trial
from fedray.study.tune.callback import ProgressCallback
from fedray.study.tune.display import SweepDisplay, SweepSize
from fedray.study.tune.pending import pending_trials
from fedray.study.tune.sweep import run_trials, start_shared_objects, sweep
from fedray.study.tune.trainable import FedTrainable as OneTrial
from fedray.study.tune.trainable import StudyContext

BASE: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 100, "test_limit": 40},
    "partition": {"kind": "iid", "clients": 3},
    "training": {"rounds": 3, "batch_size": 16, "lr": 0.05},
    "resources": {"backend": "serial"},
}
ONE_BY_ONE = {"max_concurrent": 1}
"""So that one actor runs all trials, one after another."""
Say = Callable[..., tuple[int, list[str], str]]


def write(folder: Path, space: dict[str, Any], search: dict[str, Any] | None = None, **base: Any) -> Path:
    document = {"base": {**BASE, **base}, "space": space, "search": {**ONE_BY_ONE, **(search or {})}}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def study(folder: Path, space: dict[str, Any], search: dict[str, Any] | None = None, **base: Any) -> Study:
    return Study(read(write(folder, space, search, **base)), folder / "results")


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """`say("sweep", "study.yaml")` is the command, here: its exit code, the lines it printed, and its complaint."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["fedray", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out.splitlines(), said.err

    return run


def bits(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


def alone(experiment: Experiment, folder: Path) -> dict[str, bytes]:
    """The weights of a run by itself, in this process."""
    list(Driver(experiment, folder, SerialBackend).run())
    return bits(folder)


def run(trial: Trial, rounds: int) -> None:
    """So many rounds, as an earlier sweep has left them."""
    trial.start()
    (trial.folder.path.parent / "study.json").touch()
    driven = Driver(trial.experiment, trial.folder.path, SerialBackend).run()
    for _ in range(rounds):
        next(driven)
    if rounds == trial.experiment.training.rounds:
        list(driven)
    driven.close()


def check_trial(trial: Trial, folder: Path) -> None:
    """It ended as it would have by itself, and its tables have each round once."""
    assert bits(trial.folder.path) == alone(trial.experiment, folder)
    ours, theirs = (pd.read_csv(path / "rounds.csv") for path in (trial.folder.path, folder))
    assert ours["round"].tolist() == list(range(1, trial.experiment.training.rounds + 1))
    figures = ["test_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy", "clients", "bytes_up"]
    pd.testing.assert_frame_equal(ours[figures], theirs[figures])
    for name, each in (("clients", "client"), ("classes", "class")):
        ours, theirs = (pd.read_csv(path / f"{name}.csv")[["round", each]] for path in (trial.folder.path, folder))
        pd.testing.assert_frame_equal(ours, theirs)


def written(folder: Path) -> dict[str, int]:
    """When each file of trials was last written."""
    trials = [path for path in folder.glob("*-*/") if path.is_dir()]
    files = [file for path in trials for file in path.rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def rounds(folder: Path) -> int:
    """How many there are in the tables of a study's trials."""
    count = 0
    for file in folder.glob("*/rounds.csv"):
        with file.open() as lines:
            count += max(0, len(list(csv.reader(lines))) - 1)
    return count


class TuneTrial(SimpleNamespace):
    """What a callback sees of Tune's trial."""

    trial_id: str
    config: dict[str, Any]
    last_result: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        return str(self.config["trial"])

    def get_error(self) -> Exception:
        return RuntimeError("The actor died: SIGKILL")


class TestWatch:
    """What becomes of trials whose processes are lost at odd moments."""

    @pytest.fixture
    def out(self) -> io.StringIO:
        return io.StringIO()

    @pytest.fixture
    def watched(self, tmp_path: Path, out: io.StringIO) -> tuple[Study, ProgressCallback]:
        found = study(tmp_path, {"seed": {"grid": [0, 1]}}, {"scheduler": "asha"})
        board = SweepProgress("study", found.space.search, SweepSize(2, 0, 6), out=out)
        with found.lock():
            return found, ProgressCallback(found, board, found.trials(), None)

    def test_a_process_may_be_lost_before_its_trial_starts(
        self, watched: tuple[Study, ProgressCallback], out: io.StringIO
    ) -> None:
        found, watch = watched
        first, second = found.trials()
        trial = TuneTrial(trial_id="a", config=found.tune_config(first))
        watch.on_trial_recover(0, (), trial)
        watch.on_trial_recover(0, (), trial)
        watch.on_trial_error(0, (), trial)
        assert first.outcome == Outcome("failed", 0, "its process was lost", traceback="The actor died: SIGKILL")
        assert out.getvalue().splitlines() == [
            "[0/2] seed=0: failed, will be retried: its process was lost",
            "[0/2] seed=0: failed, will be retried: its process was lost",
            "[1/2] seed=0: failed: its process was lost",
        ]
        assert pd.read_csv(found.folder / "trials.csv")["state"].tolist() == ["failed", "pending"]
        assert second.state == "pending"

    @pytest.mark.parametrize("state", ["finished", "stopped"])
    def test_a_trial_that_only_tells_what_it_has_come_to_stays_what_it_is(
        self, watched: tuple[Study, ProgressCallback], out: io.StringIO, state: str
    ) -> None:
        found, watch = watched
        first, _ = found.trials()
        run(first, 3 if state == "finished" else 1)
        if state == "stopped":
            first.record_outcome(Outcome("stopped", 1, "asha"))
        before = written(found.folder)
        trial = TuneTrial(trial_id="a", config=found.tune_config(first))
        watch.on_trial_start(0, (), trial)
        watch.on_trial_result(0, (), trial, {"round": 1, "seconds": 1.0, "test_accuracy": 0.5})
        watch.on_trial_recover(0, (), trial)
        watch.on_trial_error(0, (), trial)
        watch.on_trial_complete(0, (), trial)
        assert first.state == state
        assert written(found.folder) == before
        assert out.getvalue() == ""

    def test_what_is_refused_has_failed_though_its_process_could_not_keep_that(
        self, watched: tuple[Study, ProgressCallback], out: io.StringIO
    ) -> None:
        found, watch = watched
        first, _ = found.trials()
        refused = {"refused": "it cannot be.", "hostname": "a node", "round": 0, "test_accuracy": float("nan")}
        trial = TuneTrial(trial_id="a", config=found.tune_config(first), last_result=refused)
        watch.on_trial_start(0, (), trial)
        watch.on_trial_result(0, (), trial, refused)
        watch.on_trial_complete(0, (), trial)
        assert first.outcome == Outcome("failed", 0, "it cannot be.", "a node")
        assert out.getvalue() == "[1/2] seed=0: failed: it cannot be.\n"


@pytest.fixture(scope="module")
def shared_objects(ray_cluster: None) -> Iterator[Any]:  # noqa: ARG001
    actor: Any = ray.remote(SharedObjects).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)


@pytest.mark.ray
class TestOneProcess:
    """What an actor does with the trials that Tune gives it, one after another; here, without the actor."""

    @pytest.fixture
    def open_trial(self, shared_objects: Any, tmp_path: Path) -> Iterator[Callable[[Study, Trial], Any]]:
        """`open_trial(study, trial)` gives the process the trial."""
        opened: list[Any] = []

        def give(found: Study, trial: Trial) -> Any:
            context = StudyContext(found, {"CPU": 1}, shared_objects, tmp_path / "cache", ["fedray"], str(tmp_path))
            if opened:
                opened[0]._context = context  # of another sweep, which might have been another process
                assert opened[0].reset(found.tune_config(trial))
            else:
                opened.append(tune.with_parameters(OneTrial, context=context)(found.tune_config(trial)))
            return opened[0]

        yield give
        opened[0].stop()

    def test_rounds_of_earlier_are_reported_first_and_then_it_goes_on(
        self, open_trial: Callable[[Study, Trial], Any], tmp_path: Path
    ) -> None:
        space = {"seed": {"grid": [0, 1, 2, 3]}}
        found = study(tmp_path, space, {"scheduler": "asha"})
        begun, finished, stopped, complete = found.trials()
        run(begun, 2)
        run(finished, 3)
        run(stopped, 1)
        stopped.record_outcome(Outcome("stopped", 1, "asha"))
        run(complete, 3)
        complete.folder.model.unlink()  # killed before it was written, but after the last round

        process = open_trial(found, begun)
        results = [process.train() for _ in range(3)]
        assert [(result["round"], result["done"]) for result in results] == [(1, False), (2, False), (3, True)]
        assert [result["training_iteration"] for result in results] == [1, 2, 3]
        check_trial(begun, tmp_path / "begun alone")
        written_rows = pd.read_csv(begun.folder.path / "rounds.csv")
        assert [result["test_accuracy"] for result in results] == written_rows["test_accuracy"].tolist()
        assert results[2]["last_k_accuracy"] == pytest.approx(written_rows["test_accuracy"].mean())

        before = written(found.folder)
        process = open_trial(found, finished)
        results = [process.train() for _ in range(3)]
        assert [(result["round"], result["done"]) for result in results] == [(1, False), (2, False), (3, True)]
        process = open_trial(found, stopped)  # by the scheduler of this study, and so it stays stopped
        result = process.train()
        assert (result["round"], result["done"]) == (1, True)
        assert written(found.folder) == before
        assert stopped.outcome == Outcome("stopped", 1, "asha")

        without = study(tmp_path, space)
        process = open_trial(without, stopped)
        assert stopped.state == "stopped"
        assert process.train()["round"] == 1
        assert stopped.state == "started"  # it says so at once, not only where new rounds begin
        assert [process.train()["round"] for _ in range(2)] == [2, 3]
        check_trial(stopped, tmp_path / "stopped alone")

        assert complete.state == "started"
        process = open_trial(without, complete)
        assert [process.train()["done"] for _ in range(3)] == [False, False, True]
        check_trial(complete, tmp_path / "complete alone")

    def test_what_cannot_be_run_is_refused_and_what_fails_leaves_its_traceback(
        self, open_trial: Callable[[Study, Trial], Any], tmp_path: Path
    ) -> None:
        found = study(tmp_path, {"partition.clients": {"grid": [101, 3]}, "training.lr": {"grid": [1e9]}})
        found.describe(["fedray"])
        crowded, overflown = found.trials()
        result = open_trial(found, crowded).train()
        assert (result["done"], result["round"], "seconds" in result) == (True, 0, False)
        assert result["refused"] == "partition.clients is 101, but there are only 100 training examples."
        assert crowded.outcome is None  # that is for the process that surely has the folder
        process = open_trial(found, overflown)
        with pytest.raises(RunError, match="client 0 failed in round 1"):
            process.train()
        assert overflown.outcome is not None
        assert (overflown.outcome.state, overflown.outcome.round) == ("failed", 0)
        assert "RunError: client 0 failed in round 1" in overflown.outcome.traceback
        assert "\n" not in overflown.outcome.reason

    def test_where_the_folder_is_not_there_nothing_is_made(
        self, open_trial: Callable[[Study, Trial], Any], tmp_path: Path
    ) -> None:
        found = study(tmp_path, {"seed": {"grid": [0]}})
        result = open_trial(found, found.trials()[0]).train()
        assert result["refused"].endswith(f"on node {platform.node()}: choose a --results that all nodes share.")
        assert not (tmp_path / "results").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestOnRay:
    def test_from_the_first_trial_to_the_last(self, say: Say, tmp_path: Path) -> None:
        """Two good ones, one whose data is not there, one whose weights overflow; and then again."""
        axes = {
            "training.lr": {"zip": [0.05, 0.1, 0.05, 1e9]},
            "data.train": {"zip": ["digits", "digits", "parquet:nowhere.parquet", "digits"]},
        }
        write(tmp_path, axes)
        code, said, complaint = say("sweep", "study.yaml")
        nowhere = "data.train: no file matches 'parquet:nowhere.parquet'."
        assert code == 1
        assert complaint == "fedray: some trials failed; the same command tries them again.\n"
        lines = [line for line in said if line.startswith("[")]
        assert lines[0].startswith("[1/4] lr=0.05, train=digits: accuracy ")
        assert lines[1].startswith("[2/4] lr=0.1, train=digits: accuracy ")
        assert lines[2] == f"[3/4] lr=0.05, train=parquet:nowhere.parquet: failed: {nowhere}"  # it is not tried again
        tried, failed = lines[3:]
        assert tried.startswith("[3/4] lr=1000000000.0, train=digits: failed, will be retried: client 0 failed in")
        assert failed.startswith("[4/4] lr=1000000000.0, train=digits: failed: client 0 failed in round 1 on node ")
        assert said[-1] == "4 trials: 2 finished, 2 failed; tables: results/study"
        assert sum(line.startswith("Traceback") for line in said) == 1
        assert any(line.startswith("fedray.errors.RunError: client 0 failed in round 1") for line in said)

        found = study(tmp_path, axes)
        first, second, lost, overflown = found.trials()
        for trial in (first, second):
            check_trial(trial, tmp_path / f"alone {trial.name}")
        assert lost.outcome is not None
        assert (lost.outcome.state, lost.outcome.reason, lost.outcome.traceback) == ("failed", nowhere, "")
        assert overflown.outcome is not None
        assert (overflown.outcome.state, overflown.outcome.round) == ("failed", 0)
        assert failed.endswith(f": failed: {overflown.outcome.reason}")
        assert "in _tolerate" in overflown.outcome.traceback
        table = pd.read_csv(found.folder / "trials.csv")
        assert table["trial"].tolist() == [trial.name for trial in found.trials()]
        assert table["state"].tolist() == ["finished", "finished", "failed", "failed"]
        assert table["round"].tolist() == [3, 3, 0, 0]
        assert table["reason"].fillna("").tolist() == ["", "", nowhere, overflown.outcome.reason]
        assert table["startup_seconds"].notna().tolist() == [True, True, False, False]
        assert table["startup_seconds"][1] < 0.5 * table["startup_seconds"][0]  # its actor was there already
        events = {file.parent.name for file in (found.folder / "tune").glob("*/events.out.tfevents.*")}
        assert events >= {first.name, second.name}

        before, described = written(found.folder), (found.folder / "study.json").stat().st_mtime_ns
        write(tmp_path, {"training.lr": {"grid": [0.1, 0.05]}})
        code, said, complaint = say("sweep", "study.yaml")
        assert (code, complaint) == (0, "")
        assert said[-1] == "2 trials: 2 finished; tables: results/study"
        assert not any(line.startswith("[") for line in said)
        assert written(found.folder) == before
        assert (found.folder / "study.json").stat().st_mtime_ns == described  # Tune was not even asked

    @pytest.mark.slow
    def test_asha_stops_the_worse_and_what_is_stopped_stays_so(self, tmp_path: Path) -> None:
        """A learning rate of 1e-6 learns nothing, and so is stopped where it is compared first."""
        lrs = {"training.lr": {"grid": [0.1, 1e-6]}}
        asha = {"scheduler": "asha", "grace": 1, "reduction": 2, "metric": "test_loss"}
        good, bad = sweep(study(tmp_path, lrs, asha))
        assert (good.state, bad.state, bad.round) == ("finished", "stopped", 1)
        assert bad.outcome is not None
        assert bad.outcome.reason == "asha"
        folder = good.folder.path.parent
        table = pd.read_csv(folder / "trials.csv")
        assert table["state"].tolist() == ["finished", "stopped"]
        assert table["test_loss"][1] == pd.read_csv(bad.folder.path / "rounds.csv")["test_loss"].item()

        before, described = written(folder), (folder / "study.json").stat().st_mtime_ns
        assert [trial.state for trial in sweep(study(tmp_path, lrs, asha))] == ["finished", "stopped"]
        assert written(folder) == before
        assert (folder / "study.json").stat().st_mtime_ns == described

        more = {"training.lr": {"grid": [0.1, 1e-6, 0.05, 1e-7]}}
        median = {"scheduler": "median", "grace": 2, "metric": "test_loss"}
        _, bad, new, worst = sweep(study(tmp_path, more, median))  # which has not stopped the second one
        for trial in (bad, new):
            check_trial(trial, tmp_path / f"alone {trial.name}")
        assert bad.outcome is None
        assert (worst.state, worst.round) == ("stopped", 2)  # as there are three to compare it to
        assert worst.outcome is not None
        assert worst.outcome.reason == "median"
        assert {name: when for name, when in written(folder).items() if name.startswith(good.name)} == {
            name: when for name, when in before.items() if name.startswith(good.name)
        }

    @pytest.mark.slow
    def test_optuna_proposes_until_there_are_enough(self, tmp_path: Path) -> None:
        pytest.importorskip("optuna")
        train, _ = read_datasets(Data(train_limit=60), 0)
        clients = pd.DataFrame({"client": [position % 2 for position in range(60)], "index": train.rows})
        clients.to_csv(tmp_path / "clients.csv", index=False)
        base = {
            "data": {"train": "digits", "test": "digits", "train_limit": 60, "test_limit": 20},
            "partition": {"kind": "file", "file": os.path.relpath(tmp_path / "clients.csv")},  # from where Ray started
            "training": {"rounds": 2, "batch_size": 16},
        }
        lrs = {"training.lr": {"loguniform": [0.01, 0.2]}}
        search = {"algorithm": "optuna", "samples": 4}
        first = sweep(study(tmp_path, lrs, search, **base))
        folder = first[0].folder.path.parent
        before = written(folder)
        table = pd.read_csv(folder / "trials.csv").set_index("trial")
        assert [trial.state for trial in first] == ["finished"] * 4
        assert len(table) == len({trial.experiment.training.lr for trial in first}) == 4
        again = sweep(study(tmp_path, lrs, search, **base))
        assert len(again) == 4
        assert written(folder) == before
        more = sweep(study(tmp_path, lrs, search | {"samples": 6}, **base))
        assert [trial.state for trial in more] == ["finished"] * 6
        after = written(folder)
        assert {name: after[name] for name in before} == before
        whole = pd.read_csv(folder / "trials.csv").set_index("trial")
        assert len(whole) == 6
        pd.testing.assert_frame_equal(whole.loc[table.index], table)  # what was measured earlier is kept
        assert whole["startup_seconds"].notna().all()

    @pytest.mark.slow
    def test_killed_actors_cost_nothing_and_trials_share_what_they_can(self, tmp_path: Path) -> None:
        """A worker of the first trial is killed, and then the trial itself; the second finds it all in the store."""
        found = study(
            tmp_path,
            {"strategy.lam": {"grid": [0.25, 0.75]}},
            data={**BASE["data"], "public_fraction": 0.2},
            strategy={"name": "fedlpfm"},
            teacher={"kind": "supervised", "epochs": 2},
            training={"rounds": 8, "batch_size": 8, "lr": 0.05, "local_epochs": 2},
            resources={"backend": "ray", "clients_per_actor": 3},
        )
        killed: list[int] = []
        others = actors(os.getpid())

        def kill(*titles: str) -> None:
            (process,) = [p for p, title in actors(os.getpid()).items() if title in titles and p not in others]
            os.kill(process, signal.SIGKILL)
            killed.append(process)

        def kill_both() -> None:
            wait_for(lambda: rounds(found.folder) >= 2)
            kill("WorkerActor")
            done = rounds(found.folder)
            wait_for(lambda: rounds(found.folder) >= done + 2)
            kill("Trial", "ResourceTrainable")  # Tune's name for it

        killer = threading.Thread(target=kill_both)
        killer.start()
        shared_objects = start_shared_objects()
        with found.lock():
            run_trials(found, pending_trials(found), shared_objects, SweepDisplay(), verbose=False)
        trials = found.trials()
        killer.join()
        assert len(killed) == 2
        assert [trial.state for trial in trials] == ["finished"] * 2
        for trial in trials:
            check_trial(trial, tmp_path / f"alone {trial.name}")
        held = ray.get(shared_objects.counts.remote())
        assert (held["sets"], held["targets"]) == (2, 3)  # a lesson for each client

    @pytest.mark.skipif(sys.platform != "linux", reason="has no /proc")
    def test_results_that_nodes_do_not_share_are_refused_in_a_sentence(self, say: Say, tmp_path: Path) -> None:
        """This name is another folder for each process, as on nodes that do not share it."""
        write(tmp_path, {"seed": {"grid": [0]}})
        (tmp_path / "mine").mkdir()
        os.dup2(os.open(tmp_path / "mine", os.O_RDONLY), 777)
        try:
            code, said, _ = say("sweep", "study.yaml", "--results", "/proc/self/fd/777")
        finally:
            os.close(777)
        assert code == 1
        (line,) = [line for line in said if line.startswith("[")]
        assert line.startswith("[1/1] seed=0: failed: '/proc/self/fd/777/study' does not exist on node")
        assert line.endswith("choose a --results that all nodes share.")
        assert not list((tmp_path / "mine").rglob("spec.yaml"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("search.sheduler=asha", ": unknown field 'search.sheduler'; did you mean 'scheduler'? ('search' has metric,"),
        (
            "search.metric=test_acuracy",
            ": search.metric is 'test_acuracy', but must be one of test_accuracy, last_k_accuracy, test_loss,",
        ),
        ("search.scheduler=pbt", ": search.mutations is null, but must be set for pbt, such as"),
        ("search.max_concurrent=none", ": search.max_concurrent is 'none', but must be auto or"),
        ("training.lr=-1", " with seed=0: training.lr is -1, but must be above 0."),
    ],
)
def test_a_study_that_cannot_be_is_one_sentence(say: Say, tmp_path: Path, overrides: str, said: str) -> None:
    write(tmp_path, {"seed": {"grid": [0, 1]}})
    code, lines, complaint = say("sweep", "study.yaml", *overrides.split())
    assert (code, lines) == (2, [])
    assert complaint.startswith(f"fedray: study.yaml{said}")
    assert len(complaint.splitlines()) == 1
    assert {file.name for file in tmp_path.glob("results/study/*")} <= {".lock"}


def test_one_experiment_is_not_for_a_sweep(say: Say, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(BASE))
    sentence = "fedray: one.yaml is one experiment, not a space of them: use fedray run.\n"
    assert say("sweep", "one.yaml") == (2, [], sentence)
    assert say("sweep", "one.yaml", "--dry-run") == (2, [], sentence)


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_logger_that_is_not_installed_is_one_sentence(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    write(tmp_path, {"seed": {"grid": [0, 1]}})
    assert say("sweep", "study.yaml", f"search.log_to=[tensorboard, {package}]") == (
        2,
        [],
        f"fedray: search.log_to names {package}, which is not installed: pip install {package}.\n",
    )


def test_a_dry_run_shows_what_remains_without_ray_and_without_a_trace(tmp_path: Path) -> None:
    found = study(tmp_path, {"seed": {"grid": [0, 1, 2]}}, {"scheduler": "asha"})
    begun, finished, _ = found.trials()
    run(begun, 2)
    run(finished, 3)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    script = (
        "import sys; from fedray.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
        "print(sorted({'ray', 'torch'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, "sweep", "study.yaml", "--dry-run"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.split() for line in said.stdout.splitlines()[:4]] == [
        ["trial", "state", "round", "to", "do"],
        ["seed=0", "started", "2/3", "run"],
        ["seed=1", "finished", "3/3", "-"],
        ["seed=2", "pending", "0/3", "run"],
    ]
    assert said.stdout.splitlines()[4:] == ["3 trials: 1 started, 1 finished, 1 pending; 2 to run", "[]"]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_a_dry_run_of_what_optuna_proposes(say: Say, tmp_path: Path) -> None:
    axes = {"training.lr": {"uniform": [0.01, 0.1]}}
    search = {"algorithm": "optuna", "samples": 7}
    run(study(tmp_path, axes, search).trial({"training.lr": 0.03125}), 1)
    code, said, _ = say("sweep", "study.yaml", "--dry-run")
    assert code == 0
    assert said[1].split() == ["lr=0.03125", "started", "1/3", "run"]
    assert said[2:] == ["1 trials: 1 started; 1 to run", "optuna proposes new trials until there are 7."]


def sweeping(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """`fedray sweep study.yaml` as a terminal starts it: with a process group of its own."""
    command = [sys.executable, "-m", "fedray", "sweep", "study.yaml", *overrides]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_interrupted_and_killed_it_goes_on_where_it_was(say: Say, tmp_path: Path) -> None:
    """Ctrl-C first, then -9, then SIGTERM; then to the end, on another Ray."""
    asha = {"scheduler": "asha", "grace": 30}  # which never gets to stop one
    training = {"rounds": 30, "batch_size": 8, "lr": 0.05, "local_epochs": 2}
    write(tmp_path, {"training.momentum": {"grid": [0.9, 0.0]}}, asha, training=training)
    found = Study(read(tmp_path / "study.yaml"), Path("results"))  # which `say` has gone to
    first, second = found.trials()

    process = sweeping(tmp_path)
    wait_for(lambda: first.round >= 2 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert complaint == "fedray: stopped. Every finished round is saved; resume with: fedray sweep study.yaml\n"
    assert [first.state, second.state] == ["started", "pending"]
    assert not list(found.folder.glob("*/outcome.json"))
    table = pd.read_csv(found.folder / "trials.csv")
    assert table["state"].tolist() == ["started", "pending"]
    assert table["round"].tolist() == [first.round, 0]

    interrupted = first.round
    process = sweeping(tmp_path)
    wait_for(lambda: first.round >= interrupted + 2 or process.poll() is not None)
    assert say("sweep", "study.yaml") == (
        2,
        [],
        "fedray: 'results/study' is being written by another sweep; wait for it, or choose another --results.\n",
    )
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert first.state == "started"

    killed = first.round
    process = sweeping(tmp_path)
    wait_for(lambda: first.round >= killed + 2 or process.poll() is not None)
    process.terminate()
    _, complaint = process.communicate(timeout=60)
    kept = "Every finished round is saved; run the same command to resume."
    assert (process.returncode, complaint) == (0, f"fedray: stopped by SIGTERM. {kept}\n")
    assert first.state == "started"
    assert not (found.folder / "DONE").exists()

    code, said, complaint = say("sweep", "study.yaml")
    assert (code, complaint) == (0, "")
    assert said[-1] == "2 trials: 2 finished; tables: results/study"
    assert said[-2] == "recovered faults in trials: 3 (interrupted 3), see their faults.csv"
    assert (found.folder / "DONE").exists()
    for trial in (first, second):
        check_trial(trial, tmp_path / f"alone {trial.name}")
