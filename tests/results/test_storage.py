"""Results under a URI: copied there and back, whole at any moment, and by every command that takes --results."""

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
import yaml
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FileSystem
from safetensors.numpy import load_file

import fedray
from fedray.config.experiment import Experiment
from fedray.config.loader import read
from fedray.errors import RunError, SpecError
from fedray.results import checkpoint
from fedray.results.remote import Remote
from fedray.results.rows import loss_columns
from fedray.results.run_folder import RunFolder
from fedray.results.storage import Storage, storage_of
from fedray.server.driver import Driver
from fedray.study.study import Outcome, Study, Trial

BASE: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 100, "test_limit": 40},
    "partition": {"kind": "iid", "clients": 2},
    "training": {"rounds": 3, "batch_size": 16, "lr": 0.05},
    "resources": {"backend": "serial"},
}
Move = Callable[[], None]


class Dying(LocalFileSystem):
    """A filesystem that fails at the `left`-th change from now, and then always; a file may stay half written."""

    protocol = "dying"
    left: Any = None
    lock = threading.Lock()

    def _change(self) -> None:
        with Dying.lock:
            if Dying.left is not None:
                Dying.left -= 1
                if Dying.left < 0:
                    raise OSError("the line is dead")

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode:
            try:
                self._change()
            except OSError:
                Path(path).write_bytes(b"half")
                raise
        return super().open(path, mode, **options)

    def mv(self, *paths: str, **options: Any) -> None:
        self._change()
        super().mv(*paths, **options)

    def rm(self, *paths: str, **options: Any) -> None:
        self._change()
        super().rm(*paths, **options)

    def rm_file(self, path: str) -> None:
        self._change()
        super().rm_file(path)


class Slow(LocalFileSystem):
    """A filesystem that takes a while to open a file for writing."""

    protocol = "slow"

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        time.sleep(0.3 if "w" in mode else 0)
        return super().open(path, mode, **options)


fsspec.register_implementation("dying", Dying, clobber=True)
fsspec.register_implementation("slow", Slow, clobber=True)


@pytest.fixture(params=["file", "mock"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty place, on a disk and in pyarrow's own filesystem in memory."""
    return {"file": (tmp_path / "bucket").as_uri(), "mock": f"mock://{tmp_path}/bucket"}[request.param]


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Move:
    """From now on nothing is known of what has been copied before."""
    numbers = itertools.count()
    return lambda: monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / f"machine{next(numbers)}"))


def write(storage: Storage, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = storage.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def texts(storage: Storage) -> dict[str, str]:
    files = [file for file in storage.folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(storage.folder)): file.read_text() for file in files if file.name != ".lock"}


def at(uri: str, name: str = "study/run") -> Storage:
    return storage_of(uri).below(name).working_copy()


FILES = {"a.csv": "1", "spec.yaml": "x: 1", "checkpoint/round-00001/private/0.safetensors": "w"}


def test_what_is_pushed_is_pulled_elsewhere(uri: str, another_machine: Move) -> None:
    here = at(uri)
    write(here, {**FILES, ".lock": "", "rounds.partial": "1,", "checkpoint/partial-00002/state.json": "{}"})
    here.push()
    another_machine()
    there = at(uri)
    assert there.folder != here.folder
    there.pull()
    assert texts(there) == FILES
    write(there, {"a.csv": "12", "b/c.json": "{}"})
    there.push()
    here.pull()
    wanted = {**FILES, "a.csv": "12", "b/c.json": "{}"}
    assert {name: text for name, text in texts(here).items() if "partial" not in name} == wanted


def test_what_is_gone_on_one_side_is_deleted_on_the_other(uri: str, another_machine: Move) -> None:
    here = at(uri)
    write(here, {**FILES, "checkpoint/round-00001/state.json": "{}", "outcome.json": "{}"})
    here.push()
    another_machine()
    there = at(uri)
    there.pull()
    shutil.rmtree(there.folder / "checkpoint/round-00001")
    (there.folder / "outcome.json").unlink()
    write(there, {"checkpoint/round-00002/state.json": "{}"})
    there.push()
    here.pull()
    assert texts(here) == texts(there) == {"a.csv": "1", "spec.yaml": "x: 1", "checkpoint/round-00002/state.json": "{}"}
    assert RunFolder(here.folder).resumable_from == 2


def test_no_folder_is_left_empty_under_the_uri(tmp_path: Path) -> None:
    here = at((tmp_path / "bucket").as_uri())
    write(here, {"checkpoint/round-00001/private/0.safetensors": "w", "checkpoint/round-00001/state.json": "{}"})
    here.push()
    (here.folder / "checkpoint/round-00001").rename(here.folder / "checkpoint/round-00002")
    here.push()
    assert [path.name for path in (tmp_path / "bucket/study/run/checkpoint").iterdir()] == ["round-00002"]


def test_only_what_has_changed_is_copied(tmp_path: Path, another_machine: Move) -> None:
    there, here = tmp_path / "bucket/study/run", at((tmp_path / "bucket").as_uri())

    def inodes(folder: Path) -> dict[str, int]:
        return {name: (folder / name).stat().st_ino for name in FILES}

    def changed(before: dict[str, int], folder: Path) -> set[str]:
        return {name for name, inode in inodes(folder).items() if inode != before[name]}

    write(here, FILES)
    here.push()
    before = inodes(there)
    here.push()
    assert changed(before, there) == set()
    write(here, {"a.csv": "2"})  # as long as it was
    here.push()
    assert changed(before, there) == {"a.csv"}
    another_machine()
    elsewhere = at((tmp_path / "bucket").as_uri())
    elsewhere.pull()
    elsewhere.push()
    assert changed(before, there) == {"a.csv"}
    before = inodes(elsewhere.folder)
    (there / "spec.yaml").write_text("x: 2")
    elsewhere.pull()
    assert changed(before, elsewhere.folder) == {"spec.yaml"}


def test_a_look_leaves_out_what_it_does_not_need_and_changes_nothing(uri: str, another_machine: Move) -> None:
    here = at(uri)
    write(here, FILES)
    here.push()
    another_machine()
    seen = storage_of(uri)
    seen.pull(without="*.safetensors")
    assert texts(seen) == {"study/run/a.csv": "1", "study/run/spec.yaml": "x: 1"}
    seen.push()
    seen.write("note.json", "{}")
    here.pull()
    assert texts(here) == FILES
    another_machine()
    seen = storage_of(uri)
    seen.pull()
    assert texts(seen) == {"note.json": "{}", **{f"study/run/{name}": text for name, text in FILES.items()}}


def test_a_plain_folder_is_where_it_is_and_nothing_is_copied(tmp_path: Path) -> None:
    plain = storage_of(tmp_path / "results").below("study")
    assert plain.working_copy() is plain
    write(plain, FILES)
    for step in (plain.pull, plain.push, plain.leave):
        step()
    plain.write("note.json", "{}")
    assert texts(storage_of(str(tmp_path / "results"))) == {
        f"study/{name}": text for name, text in {**FILES, "note.json": "{}"}.items()
    }
    assert plain.place == str(plain) == str(tmp_path / "results/study")
    assert not (Path(os.environ["FEDRAY_CACHE"]) / "mirrors").exists()


def test_places_below_a_uri_keep_its_options() -> None:
    storage = storage_of("s3://bucket/a?region=x").below("my study").below("lr=0.1,seed=1-12345678")
    assert str(storage) == storage.place == "s3://bucket/a/my%20study/lr=0.1,seed=1-12345678?region=x"
    assert storage_of("s3://bucket/").place == "s3://bucket"
    assert FileSystem.from_uri(Remote("file:///a", "b c").__str__())[1] == "/a/b c"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("zzz://bucket/a", "Unrecognized filesystem type in URI: zzz://bucket/a"),
        ("file://host/a", "Unsupported hostname in non-Windows local URI: 'file://host/a'"),
    ],
)
def test_what_cannot_be_reached_is_one_sentence(uri: str, why: str) -> None:
    for use in (fedray.load_results, lambda uri: storage_of(uri).write("note", "x")):
        with pytest.raises(SpecError) as caught:
            use(uri)
        assert str(caught.value) == f"the results at '{uri}' cannot be reached ({why})."


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bucket").touch()
    uri = (tmp_path / "bucket").as_uri()
    with pytest.raises(SpecError, match=f"the results at '{uri}' cannot be reached .*Cannot create directory"):
        storage_of(uri).write("note", "x")
    here = at(uri)
    write(here, FILES)
    with pytest.raises(RunError, match=f"the results at '{uri}/study/run' cannot be reached"):
        here.push()


# Runs, and what a crash leaves of them.


def of_space(tmp_path: Path, results: str | Path, **base: Any) -> Study:
    document = {"base": {**BASE, **base}, "space": {"seed": {"grid": [0, 1]}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return Study(read(tmp_path / "study.yaml"), results)


def bits(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


def make(trial: Trial, upto: int) -> Trial:
    """Rounds, as a trial of a sweep makes them; then it is left as if its machine had died."""
    made = trial.checkout()
    made.start()
    driven = Driver(made.experiment, made.folder.path).run()
    for event in driven:
        made.storage.push()
        if event.round == upto < made.experiment.training.rounds:
            break
    driven.close()
    made.storage.push()
    return made


def test_killed_at_any_moment_a_push_leaves_a_whole_state(
    tmp_path: Path, another_machine: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds are there; the push of the third round with its end fails at its first change, its second, ..."""
    strategy = {"name": "fml"}  # with a private model for each client
    study = of_space(tmp_path, f"fsspec+dying://{tmp_path}/bucket", strategy=strategy)
    trial, losses = study.trials()[0], loss_columns(study.trials()[0].experiment.strategy)
    make(trial, upto=2)
    shutil.copytree(tmp_path / "bucket", tmp_path / "two rounds")
    another_machine()
    whole = make(trial_of(tmp_path, strategy), upto=3).folder.path
    shutil.copytree(whole, tmp_path / "three rounds")
    seen = set[tuple[int, bool]]()
    for changes in itertools.count():
        shutil.rmtree(tmp_path / "bucket")
        shutil.copytree(tmp_path / "two rounds", tmp_path / "bucket")
        another_machine()
        made = trial_of(tmp_path, strategy).checkout()
        shutil.rmtree(made.folder.path)
        shutil.copytree(tmp_path / "three rounds", made.folder.path)
        with monkeypatch.context() as context:
            context.setattr(Dying, "left", changes)
            done = pushes(made.storage)
        another_machine()
        found = trial_of(tmp_path, strategy).checkout()
        loaded = checkpoint.load(found.folder.checkpoint)
        assert loaded is not None
        state, private = loaded
        assert found.round == state.round
        assert len(private) == 2
        with found.folder.tables(losses, state.round):  # they hold the rounds before it, or this raises
            pass
        seen.add((state.round, found.folder.finished))
        if found.folder.finished:
            assert bits(found.folder.path) == bits(tmp_path / "three rounds")
            assert (found.folder.path / "costs.json").exists()
        if done:
            break
    assert changes > 10
    assert seen == {(2, False), (3, False), (3, True)}


def pushes(storage: Storage) -> bool:
    try:
        storage.push()
    except RunError:
        return False
    return True


def trial_of(tmp_path: Path, strategy: dict[str, Any]) -> Trial:
    return of_space(tmp_path, f"fsspec+dying://{tmp_path}/bucket", strategy=strategy).trials()[0]


def test_a_study_is_seen_from_another_machine(uri: str, tmp_path: Path, another_machine: Move) -> None:
    first, second = of_space(tmp_path, uri).trials()
    make(first, upto=3).storage.leave()
    make(second, upto=1).record_outcome(Outcome("failed", 1, "it broke"))
    another_machine()
    study = of_space(tmp_path, uri)
    first, second = study.trials()
    assert [(trial.state, trial.round) for trial in (first, second)] == [("finished", 3), ("failed", 1)]
    assert [study.is_pending(trial) for trial in (first, second)] == [False, True]
    assert {trial.name for trial in study.existing_trials()} == {first.name, second.name}
    assert not list(study.folder.rglob("weights.safetensors"))
    study.write_table([first, second])
    make(second, upto=2)
    first.refresh()
    second.refresh()
    assert second.outcome is None
    assert second.round == 2
    results = fedray.load_results(uri)
    assert results.rounds.groupby("seed")["round"].max().to_dict() == {0: 3, 1: 2}
    another_machine()
    assert list(fedray.load_results(uri).folders) == [f"study/{first.name}", f"study/{second.name}"]
    assert not list(Path(os.environ["FEDRAY_CACHE"]).rglob("*.safetensors"))
    assert (of_space(tmp_path, uri).folder / "trials.csv").exists()


def test_a_run_leaves_no_mirror(tmp_path: Path, another_machine: Move) -> None:
    another_machine()
    made = make(of_space(tmp_path, (tmp_path / "bucket").as_uri()).trials()[0], upto=1)
    mirrors = Path(os.environ["FEDRAY_CACHE"]) / "mirrors"
    assert len(list(mirrors.iterdir())) == 2  # of the study, and of the run
    made.storage.leave()
    (left,) = mirrors.iterdir()
    assert not list(left.rglob("*.safetensors"))


def fedray_says(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "fedray", *arguments]
    said = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240)
    return said.returncode, said.stdout, said.stderr


def test_the_commands_say_what_is_wrong_with_a_uri(tmp_path: Path) -> None:
    of_space(tmp_path, tmp_path / "results")
    why = "cannot be reached (Unrecognized filesystem type in URI: zzz://bucket/a).\n"
    told = fedray_says("sweep", "study.yaml", "--dry-run", "--results", "zzz://bucket/a", cwd=tmp_path)
    assert told == (2, "", f"fedray: the results at 'zzz://bucket/a/study' {why}")
    told = fedray_says("results", "zzz://bucket/a", cwd=tmp_path)
    assert told == (2, "", f"fedray: the results at 'zzz://bucket/a' {why}")
    told = fedray_says("run", "study.yaml", "--results", "zzz://bucket/a", cwd=tmp_path)
    assert told == (2, "", f"fedray: the results at 'zzz://bucket/a/study' {why}")
    assert not (tmp_path / "zzz:").exists()


def test_a_run_under_a_uri_goes_on_where_another_machine_was(tmp_path: Path, another_machine: Move) -> None:
    another_machine()
    experiment = of_space(tmp_path, tmp_path).trials()[0].experiment
    bucket = tmp_path / "bucket"
    begun = fedray.run(experiment, bucket.as_uri())
    next(begun)
    begun.close()
    assert RunFolder(bucket).resumable_from == 1
    another_machine()
    with pytest.raises(SpecError, match="unfinished run"):
        next(fedray.run(experiment, bucket.as_uri()))
    assert [result.round for result in fedray.run(experiment, bucket.as_uri(), resume=True)] == [2, 3]
    list(Driver(experiment, tmp_path / "alone").run())
    assert bits(bucket) == bits(tmp_path / "alone")
    assert list(fedray.run(experiment, bucket.as_uri())) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_does_not_hurry_ahead_of_what_is_uploaded(tmp_path: Path, another_machine: Move) -> None:
    """Each upload takes as long as several rounds: no checkpoint may be gone before it has been taken there."""
    another_machine()
    sections = {**BASE, "strategy": {"name": "fml"}, "training": {**BASE["training"], "rounds": 8}}
    on_ray = Experiment.model_validate({**sections, "resources": {"backend": "ray"}})
    for result in fedray.run(on_ray, f"fsspec+slow://{tmp_path}/bucket/run"):
        found = checkpoint.load(tmp_path / "bucket" / "run" / "checkpoint")
        assert found is not None
        assert found[0].round - result.round in (0, 1)  # uploaded before anybody is told of the round
    list(Driver(Experiment.model_validate(sections), tmp_path / "alone").run())
    assert bits(tmp_path / "bucket" / "run") == bits(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_goes_on_where_another_machine_was_and_ends_in_the_same_weights(
    tmp_path: Path, another_machine: Move
) -> None:
    from fedray.study.tune.sweep import sweep

    another_machine()
    bucket = tmp_path / "bucket"
    make(of_space(tmp_path, bucket.as_uri()).trials()[0], upto=1)
    another_machine()
    trials = sweep(of_space(tmp_path, bucket.as_uri()))
    assert [trial.state for trial in trials] == ["finished", "finished"]
    for trial in trials:
        there, alone = bucket / "study" / trial.name, tmp_path / "alone" / trial.name
        list(Driver(trial.experiment, alone).run())
        assert bits(there) == bits(alone)
        rounds = [pd.read_csv(folder / "rounds.csv") for folder in (there, alone)]
        assert rounds[0]["test_accuracy"].tolist() == rounds[1]["test_accuracy"].tolist()
        assert sorted(path.name for path in (there / "checkpoint").iterdir()) == ["round-00002", "round-00003"]
    assert list((bucket / "study/tune").rglob("events.out.tfevents.*"))
    assert not list(bucket.rglob("*.partial"))

    another_machine()
    before = {file: file.stat().st_mtime_ns for file in bucket.rglob("*.*") if file.name != "trials.csv"}
    assert [trial.state for trial in sweep(of_space(tmp_path, bucket.as_uri()))] == ["finished"] * 2
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert fedray.load_results(bucket.as_uri()).rounds.groupby("seed")["round"].max().to_dict() == {0: 3, 1: 3}
    assert pd.read_csv(bucket / "study/trials.csv")["state"].tolist() == ["finished"] * 2
