"""`fedray sweep` on Ray: no round is lost or repeated, and each trial equals the same run outside a study."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import ray
import yaml
from helpers.processes import actors, wait_for
from helpers.trials import (
    BASE,
    check_trial,
    count_rounds,
    make_study,
    modification_times,
    run_rounds,
    write_space,
)

from fedray.cli.main import main
from fedray.config.loader import read
from fedray.data.federated import read_datasets
from fedray.data.sections import Data
from fedray.study.study import Study
from fedray.study.tune.display import SweepDisplay
from fedray.study.tune.pending import pending_trials
from fedray.study.tune.sweep import run_trials, start_shared_objects, sweep

RunCommand = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def run_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """`run_command("sweep", "study.yaml")` runs fedray in this process. Return exit code, stdout's lines, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["fedray", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        output = capsys.readouterr()
        return int(exited.value.code or 0), output.out.splitlines(), output.err

    return run


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestOnRay:
    def test_complete_sweep(self, run_command: RunCommand, tmp_path: Path) -> None:
        """Two trials finish, one lacks its data, and the weights of one overflow. A second sweep runs no trial."""
        axes = {
            "training.optimizer.lr": {"zip": [0.05, 0.1, 0.05, 1e9]},
            "data.train": {"zip": ["digits", "digits", "parquet:nowhere.parquet", "digits"]},
        }
        write_space(tmp_path, axes)
        code, lines, error = run_command("sweep", "study.yaml")
        nowhere = "data.train: no file matches 'parquet:nowhere.parquet'."
        assert code == 1
        assert error == "fedray: some trials failed; run the same command to retry them.\n"
        trial_lines = [line for line in lines if line.startswith("[")]
        assert trial_lines[0].startswith("[1/4] lr=0.05, train=digits: test accuracy ")
        assert trial_lines[1].startswith("[2/4] lr=0.1, train=digits: test accuracy ")
        assert trial_lines[2] == f"[3/4] lr=0.05, train=parquet:nowhere.parquet: failed: {nowhere}"
        retried, failed = trial_lines[3:]  # the trial without data was not retried
        assert retried.startswith("[3/4] lr=1000000000.0, train=digits: failed, will be retried: client 0 failed in")
        assert failed.startswith("[4/4] lr=1000000000.0, train=digits: failed: client 0 failed in round 1 on node ")
        assert lines[-1] == "4 trials: 2 finished, 2 failed; tables: results/study"
        assert sum(line.startswith("Traceback") for line in lines) == 1
        assert any(line.startswith("fedray.errors.RepeatableError: client 0 failed in round 1") for line in lines)

        study = make_study(tmp_path, axes)
        first, second, missing, overflown = study.trials()
        for trial in (first, second):
            check_trial(trial, tmp_path / f"alone {trial.name}")
        assert missing.outcome is not None
        assert (missing.outcome.state, missing.outcome.reason, missing.outcome.traceback) == ("failed", nowhere, "")
        assert overflown.outcome is not None
        assert (overflown.outcome.state, overflown.outcome.round) == ("failed", 0)
        assert failed.endswith(f": failed: {overflown.outcome.reason}")
        assert "RepeatableError: client 0 failed in round 1" in overflown.outcome.traceback
        table = pd.read_csv(study.folder / "trials.csv")
        assert table["trial"].tolist() == [trial.name for trial in study.trials()]
        assert table["state"].tolist() == ["finished", "finished", "failed", "failed"]
        assert table["round"].tolist() == [3, 3, 0, 0]
        assert table["reason"].fillna("").tolist() == ["", "", nowhere, overflown.outcome.reason]
        assert table["startup_seconds"].notna().tolist() == [True, True, False, False]
        assert table["startup_seconds"][1] < 0.5 * table["startup_seconds"][0]  # the actor was reused
        events = {file.parent.name for file in (study.folder / "tune").glob("*/events.out.tfevents.*")}
        assert events >= {first.name, second.name}

        before, described = modification_times(study.folder), (study.folder / "study.json").stat().st_mtime_ns
        write_space(tmp_path, {"training.optimizer.lr": {"grid": [0.1, 0.05]}})
        code, lines, error = run_command("sweep", "study.yaml")
        assert (code, error) == (0, "")
        assert lines[-1] == "2 trials: 2 finished; tables: results/study"
        assert not any(line.startswith("[") for line in lines)
        assert modification_times(study.folder) == before
        assert (study.folder / "study.json").stat().st_mtime_ns == described  # Tune did not start

    @pytest.mark.slow
    def test_asha_stops_worse_trials_and_they_stay_stopped(self, tmp_path: Path) -> None:
        """A learning rate of 1e-6 learns nothing, so ASHA stops it at the first comparison."""
        lrs = {"training.optimizer.lr": {"grid": [0.1, 1e-6]}}
        asha = {"scheduler": "asha", "grace": 1, "reduction": 2, "metric": "test_loss"}
        good, bad = sweep(make_study(tmp_path, lrs, asha))
        assert (good.state, bad.state, bad.round) == ("finished", "stopped", 1)
        assert bad.outcome is not None
        assert bad.outcome.reason == "asha"
        folder = good.folder.path.parent
        table = pd.read_csv(folder / "trials.csv")
        assert table["state"].tolist() == ["finished", "stopped"]
        assert table["test_loss"][1] == pd.read_csv(bad.folder.path / "rounds.csv")["test_loss"].item()

        before, described = modification_times(folder), (folder / "study.json").stat().st_mtime_ns
        assert [trial.state for trial in sweep(make_study(tmp_path, lrs, asha))] == ["finished", "stopped"]
        assert modification_times(folder) == before
        assert (folder / "study.json").stat().st_mtime_ns == described

        more = {"training.optimizer.lr": {"grid": [0.1, 1e-6, 0.05, 1e-7]}}
        median = {"scheduler": "median", "grace": 2, "metric": "test_loss"}
        _, bad, new, worst = sweep(make_study(tmp_path, more, median))  # retries the second one, which ASHA stopped
        for trial in (bad, new):
            check_trial(trial, tmp_path / f"alone {trial.name}")
        assert bad.outcome is None
        assert (worst.state, worst.round) == ("stopped", 2)  # compared with three other trials
        assert worst.outcome is not None
        assert worst.outcome.reason == "median"
        assert {name: time for name, time in modification_times(folder).items() if name.startswith(good.name)} == {
            name: time for name, time in before.items() if name.startswith(good.name)
        }

    @pytest.mark.slow
    def test_optuna_proposes_the_number_of_samples(self, tmp_path: Path) -> None:
        pytest.importorskip("optuna")
        train, _ = read_datasets(Data(train_limit=60), 0)
        clients = pd.DataFrame({"client": [position % 2 for position in range(60)], "index": train.rows})
        clients.to_csv(tmp_path / "clients.csv", index=False)
        base = {
            "data": {"train": "digits", "test": "digits", "train_limit": 60, "test_limit": 20},
            "partition": {
                "kind": "file",
                "file": os.path.relpath(tmp_path / "clients.csv"),
            },  # relative to Ray's folder
            "training": {"rounds": 2, "batch_size": 16},
        }
        lrs = {"training.optimizer.lr": {"loguniform": [0.01, 0.2]}}
        search = {"algorithm": "optuna", "samples": 4}
        first = sweep(make_study(tmp_path, lrs, search, **base))
        folder = first[0].folder.path.parent
        before = modification_times(folder)
        table = pd.read_csv(folder / "trials.csv").set_index("trial")
        assert [trial.state for trial in first] == ["finished"] * 4
        assert len(table) == len({trial.experiment.training.optimizer.lr for trial in first}) == 4
        repeated = sweep(make_study(tmp_path, lrs, search, **base))
        assert len(repeated) == 4
        assert modification_times(folder) == before
        extended = sweep(make_study(tmp_path, lrs, search | {"samples": 6}, **base))
        assert [trial.state for trial in extended] == ["finished"] * 6
        after = modification_times(folder)
        assert {name: after[name] for name in before} == before
        full_table = pd.read_csv(folder / "trials.csv").set_index("trial")
        assert len(full_table) == 6
        pd.testing.assert_frame_equal(full_table.loc[table.index], table)  # earlier rows do not change
        assert full_table["startup_seconds"].notna().all()

    @pytest.mark.slow
    def test_killed_actors_do_not_change_results_and_trials_share_data(self, tmp_path: Path) -> None:
        """A worker of the first trial is killed, then its own actor; the second trial reads shared data."""
        study = make_study(
            tmp_path,
            {"strategy.lam": {"grid": [0.25, 0.75]}},
            data={**BASE["data"], "public_fraction": 0.2},
            strategy={"name": "fedlpfm"},
            teacher={"kind": "supervised", "epochs": 2},
            training={"rounds": 8, "batch_size": 8, "optimizer": {"lr": 0.05}, "local_epochs": 2},
            resources={"backend": "ray", "clients_per_actor": 3},
        )
        killed: list[int] = []
        earlier = actors(os.getpid())

        def kill(*titles: str) -> None:
            (process,) = [p for p, title in actors(os.getpid()).items() if title in titles and p not in earlier]
            os.kill(process, signal.SIGKILL)
            killed.append(process)

        def kill_both() -> None:
            wait_for(lambda: count_rounds(study.folder) >= 2)
            kill("WorkerActor")
            done = count_rounds(study.folder)
            wait_for(lambda: count_rounds(study.folder) >= done + 2)
            kill("FedTrainable", "ResourceTrainable")  # Tune's title of the process

        killer = threading.Thread(target=kill_both)
        killer.start()
        shared_objects = start_shared_objects()
        with study.lock():
            run_trials(study, pending_trials(study), shared_objects, SweepDisplay(), verbose=False)
        trials = study.trials()
        killer.join()
        assert len(killed) == 2
        assert [trial.state for trial in trials] == ["finished"] * 2
        for trial in trials:
            check_trial(trial, tmp_path / f"alone {trial.name}")
        counts = ray.get(shared_objects.counts.remote())
        assert (counts["datasets"], counts["targets"]) == (2, 3)  # targets of three clients

    @pytest.mark.skipif(sys.platform != "linux", reason="has no /proc")
    def test_unshared_results_folder_gives_a_one_line_error(self, run_command: RunCommand, tmp_path: Path) -> None:
        """The path names a different folder in each process, as it does on nodes that do not share it."""
        write_space(tmp_path, {"seed": {"grid": [0]}})
        (tmp_path / "local").mkdir()
        os.dup2(os.open(tmp_path / "local", os.O_RDONLY), 777)
        try:
            code, lines, _ = run_command("sweep", "study.yaml", "--results", "/proc/self/fd/777")
        finally:
            os.close(777)
        assert code == 1
        (line,) = [line for line in lines if line.startswith("[")]
        assert line.startswith("[1/1] seed=0: failed: '/proc/self/fd/777/study' does not exist on node")
        assert line.endswith("choose a --results that all nodes share.")
        assert not list((tmp_path / "local").rglob("spec.yaml"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("search.sheduler=asha", ": unknown field 'search.sheduler'; did you mean 'scheduler'? ('search' has metric,"),
        (
            "search.metric=test_acuracy",
            ": search.metric is 'test_acuracy', but must be one of test_accuracy, last_k_accuracy, test_loss,",
        ),
        ("search.scheduler=pbt", ": search.mutations is null, but must be set for pbt, such as"),
        ("search.max_concurrent=none", ": search.max_concurrent is 'none', but must be auto or"),
        ("training.optimizer.lr=-1", " with seed=0: training.optimizer.lr is -1, but must be above 0."),
    ],
)
def test_invalid_study_gives_a_one_line_error(
    run_command: RunCommand, tmp_path: Path, overrides: str, message: str
) -> None:
    write_space(tmp_path, {"seed": {"grid": [0, 1]}})
    code, lines, error = run_command("sweep", "study.yaml", *overrides.split())
    assert (code, lines) == (2, [])
    assert error.startswith(f"fedray: study.yaml{message}")
    assert len(error.splitlines()) == 1
    assert {file.name for file in tmp_path.glob("results/study/*")} <= {".lock"}


def test_sweep_rejects_a_single_experiment(run_command: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(BASE))
    message = "fedray: one.yaml is one experiment, not a space of them: use fedray run.\n"
    assert run_command("sweep", "one.yaml") == (2, [], message)
    assert run_command("sweep", "one.yaml", "--dry-run") == (2, [], message)


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_missing_logger_package_gives_a_one_line_error(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    write_space(tmp_path, {"seed": {"grid": [0, 1]}})
    assert run_command("sweep", "study.yaml", f"search.log_to=[tensorboard, {package}]") == (
        2,
        [],
        f"fedray: search.log_to names {package}, which is not installed: pip install {package}.\n",
    )


def test_dry_run_lists_remaining_trials_and_writes_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path, {"seed": {"grid": [0, 1, 2]}}, {"scheduler": "asha"})
    started, finished, _ = study.trials()
    run_rounds(started, 2)
    run_rounds(finished, 3)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    script = (
        "import sys; from fedray.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
        "print(sorted({'ray', 'torch'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, "sweep", "study.yaml", "--dry-run"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.split() for line in process.stdout.splitlines()[:4]] == [
        ["trial", "state", "round", "to", "do"],
        ["seed=0", "started", "2/3", "run"],
        ["seed=1", "finished", "3/3", "-"],
        ["seed=2", "pending", "0/3", "run"],
    ]
    assert process.stdout.splitlines()[4:] == ["3 trials: 1 started, 1 finished, 1 pending; 2 to run", "[]"]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_dry_run_of_an_optuna_study_lists_existing_trials(run_command: RunCommand, tmp_path: Path) -> None:
    axes = {"training.optimizer.lr": {"uniform": [0.01, 0.1]}}
    search = {"algorithm": "optuna", "samples": 7}
    run_rounds(make_study(tmp_path, axes, search).trial({"training.optimizer.lr": 0.03125}), 1)
    code, lines, _ = run_command("sweep", "study.yaml", "--dry-run")
    assert code == 0
    assert lines[1].split() == ["lr=0.03125", "started", "1/3", "run"]
    assert lines[2:] == ["1 trials: 1 started; 1 to run", "optuna proposes new trials until there are 7."]


def start_sweep(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start `fedray sweep study.yaml` in its own process group, as a terminal does."""
    command = [sys.executable, "-m", "fedray", "sweep", "study.yaml", *overrides]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_sweep_resumes_after_interrupt_kill_and_sigterm(run_command: RunCommand, tmp_path: Path) -> None:
    """Three sweeps end by Ctrl-C, SIGKILL and SIGTERM; the fourth finishes the study on another Ray."""
    asha = {"scheduler": "asha", "grace": 30}  # too late to stop a trial
    training = {"rounds": 30, "batch_size": 8, "optimizer": {"lr": 0.05}, "local_epochs": 2}
    write_space(tmp_path, {"training.optimizer.momentum": {"grid": [0.9, 0.0]}}, asha, training=training)
    study = Study(read(tmp_path / "study.yaml"), Path("results"))  # relative: the fixture changed the folder
    first, second = study.trials()

    process = start_sweep(tmp_path)
    wait_for(lambda: first.round >= 2 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error == "fedray: stopped. Every finished round is saved; resume with: fedray sweep study.yaml\n"
    assert [first.state, second.state] == ["started", "pending"]
    assert not list(study.folder.glob("*/outcome.json"))
    table = pd.read_csv(study.folder / "trials.csv")
    assert table["state"].tolist() == ["started", "pending"]
    assert table["round"].tolist() == [first.round, 0]

    interrupted = first.round
    process = start_sweep(tmp_path)
    wait_for(lambda: first.round >= interrupted + 2 or process.poll() is not None)
    assert run_command("sweep", "study.yaml") == (
        2,
        [],
        "fedray: 'results/study' is being written by another sweep; wait for it, or choose another --results.\n",
    )
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert first.state == "started"

    killed = first.round
    process = start_sweep(tmp_path)
    wait_for(lambda: first.round >= killed + 2 or process.poll() is not None)
    process.terminate()
    _, error = process.communicate(timeout=60)
    hint = "Every finished round is saved; run the same command to resume."
    assert (process.returncode, error) == (0, f"fedray: stopped by SIGTERM. {hint}\n")
    assert first.state == "started"
    assert not (study.folder / "DONE").exists()

    code, lines, error = run_command("sweep", "study.yaml")
    assert (code, error) == (0, "")
    assert lines[-1] == "2 trials: 2 finished; tables: results/study"
    assert lines[-2] == "recovered faults in trials: 3 (interrupted 3), see their faults.csv"
    assert (study.folder / "DONE").exists()
    for trial in (first, second):
        check_trial(trial, tmp_path / f"alone {trial.name}")
