"""Results under a URI: pull and push, crashes during a push, and every command that takes --results."""

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
    "training": {"rounds": 3, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "resources": {"backend": "serial"},
}
SwitchMachine = Callable[[], None]


class Failing(LocalFileSystem):
    """A filesystem that allows `left` more changes, then fails at each. A file that it opens stays half written."""

    protocol = "failing"
    left: Any = None
    lock = threading.Lock()

    def _change(self) -> None:
        with Failing.lock:
            if Failing.left is not None:
                Failing.left -= 1
                if Failing.left < 0:
                    raise OSError("the connection is closed")

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
    """A filesystem that takes 0.3 seconds to open a file for writing."""

    protocol = "slow"

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        time.sleep(0.3 if "w" in mode else 0)
        return super().open(path, mode, **options)


fsspec.register_implementation("failing", Failing, clobber=True)
fsspec.register_implementation("slow", Slow, clobber=True)


@pytest.fixture(params=["file", "mock"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty folder, on disk and in pyarrow's filesystem in memory."""
    return {"file": (tmp_path / "bucket").as_uri(), "mock": f"mock://{tmp_path}/bucket"}[request.param]


@pytest.fixture
def switch_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SwitchMachine:
    """Return a function that switches to a machine with an empty cache."""
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


def working_copy(uri: str, name: str = "study/run") -> Storage:
    return storage_of(uri).below(name).working_copy()


FILES = {"a.csv": "1", "spec.yaml": "x: 1", "checkpoint/round-00001/private/0.safetensors": "w"}


def test_pushed_files_are_pulled_on_another_machine(uri: str, switch_machine: SwitchMachine) -> None:
    here = working_copy(uri)
    write(here, {**FILES, ".lock": "", "rounds.partial": "1,", "checkpoint/partial-00002/state.json": "{}"})
    here.push()
    switch_machine()
    there = working_copy(uri)
    assert there.folder != here.folder
    there.pull()
    assert texts(there) == FILES
    write(there, {"a.csv": "12", "b/c.json": "{}"})
    there.push()
    here.pull()
    expected = {**FILES, "a.csv": "12", "b/c.json": "{}"}
    assert {name: text for name, text in texts(here).items() if "partial" not in name} == expected


def test_deleted_files_are_deleted_on_the_other_side(uri: str, switch_machine: SwitchMachine) -> None:
    here = working_copy(uri)
    write(here, {**FILES, "checkpoint/round-00001/state.json": "{}", "outcome.json": "{}"})
    here.push()
    switch_machine()
    there = working_copy(uri)
    there.pull()
    shutil.rmtree(there.folder / "checkpoint/round-00001")
    (there.folder / "outcome.json").unlink()
    write(there, {"checkpoint/round-00002/state.json": "{}"})
    there.push()
    here.pull()
    assert texts(here) == texts(there) == {"a.csv": "1", "spec.yaml": "x: 1", "checkpoint/round-00002/state.json": "{}"}
    assert RunFolder(here.folder).resumable_from == 2


def test_push_leaves_no_empty_folder_under_the_uri(tmp_path: Path) -> None:
    here = working_copy((tmp_path / "bucket").as_uri())
    write(here, {"checkpoint/round-00001/private/0.safetensors": "w", "checkpoint/round-00001/state.json": "{}"})
    here.push()
    (here.folder / "checkpoint/round-00001").rename(here.folder / "checkpoint/round-00002")
    here.push()
    assert [path.name for path in (tmp_path / "bucket/study/run/checkpoint").iterdir()] == ["round-00002"]


def test_only_changed_files_are_copied(tmp_path: Path, switch_machine: SwitchMachine) -> None:
    there, here = tmp_path / "bucket/study/run", working_copy((tmp_path / "bucket").as_uri())

    def inodes(folder: Path) -> dict[str, int]:
        return {name: (folder / name).stat().st_ino for name in FILES}

    def changed(before: dict[str, int], folder: Path) -> set[str]:
        return {name for name, inode in inodes(folder).items() if inode != before[name]}

    write(here, FILES)
    here.push()
    before = inodes(there)
    here.push()
    assert changed(before, there) == set()
    write(here, {"a.csv": "2"})  # of the same size
    here.push()
    assert changed(before, there) == {"a.csv"}
    switch_machine()
    elsewhere = working_copy((tmp_path / "bucket").as_uri())
    elsewhere.pull()
    elsewhere.push()
    assert changed(before, there) == {"a.csv"}
    before = inodes(elsewhere.folder)
    (there / "spec.yaml").write_text("x: 2")
    elsewhere.pull()
    assert changed(before, elsewhere.folder) == {"spec.yaml"}


def test_mirror_skips_excluded_files_and_pushes_nothing(uri: str, switch_machine: SwitchMachine) -> None:
    here = working_copy(uri)
    write(here, FILES)
    here.push()
    switch_machine()
    mirror = storage_of(uri)
    mirror.pull(exclude="*.safetensors")
    assert texts(mirror) == {"study/run/a.csv": "1", "study/run/spec.yaml": "x: 1"}
    mirror.push()
    mirror.write("note.json", "{}")
    here.pull()
    assert texts(here) == FILES
    switch_machine()
    mirror = storage_of(uri)
    mirror.pull()
    assert texts(mirror) == {"note.json": "{}", **{f"study/run/{name}": text for name, text in FILES.items()}}


def test_erased_file_is_deleted_locally_and_at_the_uri(uri: str, switch_machine: SwitchMachine) -> None:
    mirror = storage_of(uri)
    mirror.write("note.json", "{}")
    mirror.write("other.json", "{}")
    mirror.erase("note.json")
    mirror.erase("note.json")  # a missing file is no error
    assert texts(mirror) == {"other.json": "{}"}
    switch_machine()
    mirror = storage_of(uri)
    mirror.pull()
    assert texts(mirror) == {"other.json": "{}"}


def test_plain_folder_is_used_in_place(tmp_path: Path) -> None:
    plain = storage_of(tmp_path / "results").below("study")
    assert plain.working_copy() is plain
    write(plain, FILES)
    for step in (plain.pull, plain.push, plain.release):
        step()
    plain.write("note.json", "{}")
    assert texts(storage_of(str(tmp_path / "results"))) == {
        f"study/{name}": text for name, text in {**FILES, "note.json": "{}"}.items()
    }
    assert plain.location == str(plain) == str(tmp_path / "results/study")
    assert not (Path(os.environ["FEDRAY_CACHE"]) / "mirrors").exists()


def test_folders_below_a_uri_keep_its_options() -> None:
    storage = storage_of("s3://bucket/a?region=x").below("my study").below("lr=0.1,seed=1-12345678")
    assert str(storage) == storage.location == "s3://bucket/a/my%20study/lr=0.1,seed=1-12345678?region=x"
    assert storage_of("s3://bucket/").location == "s3://bucket"
    assert FileSystem.from_uri(str(Remote("file:///a", "b c")))[1] == "/a/b c"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("zzz://bucket/a", "Unrecognized filesystem type in URI: zzz://bucket/a"),
        ("file://host/a", "Unsupported hostname in non-Windows local URI: 'file://host/a'"),
    ],
)
def test_unreachable_uri_gives_a_one_line_error(uri: str, reason: str) -> None:
    for use in (fedray.load_results, lambda uri: storage_of(uri).write("note", "x")):
        with pytest.raises(SpecError) as caught:
            use(uri)
        assert str(caught.value) == f"the results at '{uri}' cannot be reached ({reason})."


def test_unwritable_uri_gives_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "bucket").touch()
    uri = (tmp_path / "bucket").as_uri()
    with pytest.raises(SpecError, match=f"the results at '{uri}' cannot be reached .*Cannot create directory"):
        storage_of(uri).write("note", "x")
    here = working_copy(uri)
    write(here, FILES)
    with pytest.raises(RunError, match=f"the results at '{uri}/study/run' cannot be reached"):
        here.push()


# Runs under a URI, and crashes.


def make_study(tmp_path: Path, results: str | Path, **base: Any) -> Study:
    document = {"base": {**BASE, **base}, "space": {"seed": {"grid": [0, 1]}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return Study(read(tmp_path / "study.yaml"), results)


def bits(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


def run_rounds(trial: Trial, last: int) -> Trial:
    """Run a trial as a sweep does, until round `last`, and leaves its working copy as a crash would."""
    copy = trial.checkout()
    copy.start()
    rounds = Driver(copy.experiment, copy.folder.path).run()
    for event in rounds:
        copy.storage.push()
        if event.round == last < copy.experiment.training.rounds:
            break
    rounds.close()
    copy.storage.push()
    return copy


def test_push_killed_at_any_point_leaves_a_complete_state(
    tmp_path: Path, switch_machine: SwitchMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds are stored; the push of the third and last fails at its first change, then its second, and so on."""
    strategy = {"name": "fml"}  # each client has a private model
    study = make_study(tmp_path, f"fsspec+failing://{tmp_path}/bucket", strategy=strategy)
    trial, losses = study.trials()[0], loss_columns(study.trials()[0].experiment.strategy)
    run_rounds(trial, last=2)
    shutil.copytree(tmp_path / "bucket", tmp_path / "two rounds")
    switch_machine()
    complete = run_rounds(trial_of(tmp_path, strategy), last=3).folder.path
    shutil.copytree(complete, tmp_path / "three rounds")
    states = set[tuple[int, bool]]()
    for changes in itertools.count():
        shutil.rmtree(tmp_path / "bucket")
        shutil.copytree(tmp_path / "two rounds", tmp_path / "bucket")
        switch_machine()
        pushed = trial_of(tmp_path, strategy).checkout()
        shutil.rmtree(pushed.folder.path)
        shutil.copytree(tmp_path / "three rounds", pushed.folder.path)
        with monkeypatch.context() as context:
            context.setattr(Failing, "left", changes)
            is_complete = can_push(pushed.storage)
        switch_machine()
        pulled = trial_of(tmp_path, strategy).checkout()
        loaded = checkpoint.load(pulled.folder.checkpoint)
        assert loaded is not None
        state, private = loaded
        assert pulled.round == state.round
        assert len(private) == 2
        with pulled.folder.tables(losses, state.round):  # raises if a table lacks a round before it
            pass
        states.add((state.round, pulled.folder.finished))
        if pulled.folder.finished:
            assert bits(pulled.folder.path) == bits(tmp_path / "three rounds")
            assert (pulled.folder.path / "costs.json").exists()
        if is_complete:
            break
    assert changes > 10
    assert states == {(2, False), (3, False), (3, True)}


def can_push(storage: Storage) -> bool:
    try:
        storage.push()
    except RunError:
        return False
    return True


def trial_of(tmp_path: Path, strategy: dict[str, Any]) -> Trial:
    return make_study(tmp_path, f"fsspec+failing://{tmp_path}/bucket", strategy=strategy).trials()[0]


def test_study_is_read_from_another_machine(uri: str, tmp_path: Path, switch_machine: SwitchMachine) -> None:
    first, second = make_study(tmp_path, uri).trials()
    run_rounds(first, last=3).storage.release()
    run_rounds(second, last=1).record_outcome(Outcome("failed", 1, "it broke"))
    switch_machine()
    study = make_study(tmp_path, uri)
    first, second = study.trials()
    assert [(trial.state, trial.round) for trial in (first, second)] == [("finished", 3), ("failed", 1)]
    assert [study.is_pending(trial) for trial in (first, second)] == [False, True]
    assert {trial.name for trial in study.existing_trials()} == {first.name, second.name}
    assert not list(study.folder.rglob("weights.safetensors"))
    study.write_table([first, second])
    run_rounds(second, last=2)
    first.refresh()
    second.refresh()
    assert second.outcome is None
    assert second.round == 2
    results = fedray.load_results(uri)
    assert results.rounds.groupby("seed")["round"].max().to_dict() == {0: 3, 1: 2}
    switch_machine()
    assert list(fedray.load_results(uri).folders) == [f"study/{first.name}", f"study/{second.name}"]
    assert not list(Path(os.environ["FEDRAY_CACHE"]).rglob("*.safetensors"))
    assert (make_study(tmp_path, uri).folder / "trials.csv").exists()


def test_finished_run_leaves_no_working_copy(tmp_path: Path, switch_machine: SwitchMachine) -> None:
    switch_machine()
    trial = run_rounds(make_study(tmp_path, (tmp_path / "bucket").as_uri()).trials()[0], last=1)
    mirrors = Path(os.environ["FEDRAY_CACHE"]) / "mirrors"
    assert len(list(mirrors.iterdir())) == 2  # of the study, and of the run
    trial.storage.release()
    (mirror,) = mirrors.iterdir()
    assert not list(mirror.rglob("*.safetensors"))


def run_command(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "fedray", *arguments]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240)
    return process.returncode, process.stdout, process.stderr


def test_commands_report_an_unreachable_uri(tmp_path: Path) -> None:
    make_study(tmp_path, tmp_path / "results")
    reason = "cannot be reached (Unrecognized filesystem type in URI: zzz://bucket/a).\n"
    output = run_command("sweep", "study.yaml", "--dry-run", "--results", "zzz://bucket/a", cwd=tmp_path)
    assert output == (2, "", f"fedray: the results at 'zzz://bucket/a/study' {reason}")
    output = run_command("results", "zzz://bucket/a", cwd=tmp_path)
    assert output == (2, "", f"fedray: the results at 'zzz://bucket/a' {reason}")
    output = run_command("run", "study.yaml", "--results", "zzz://bucket/a", cwd=tmp_path)
    assert output == (2, "", f"fedray: the results at 'zzz://bucket/a/study' {reason}")
    assert not (tmp_path / "zzz:").exists()


def test_run_under_a_uri_resumes_on_another_machine(tmp_path: Path, switch_machine: SwitchMachine) -> None:
    switch_machine()
    experiment = make_study(tmp_path, tmp_path).trials()[0].experiment
    bucket = tmp_path / "bucket"
    rounds = fedray.rounds(experiment, bucket.as_uri())
    next(rounds)
    rounds.close()
    assert RunFolder(bucket).resumable_from == 1
    switch_machine()
    with pytest.raises(SpecError, match="unfinished run"):
        next(fedray.rounds(experiment, bucket.as_uri(), resume=False))
    assert [result.round for result in fedray.rounds(experiment, bucket.as_uri())] == [2, 3]
    list(Driver(experiment, tmp_path / "alone").run())
    assert bits(bucket) == bits(tmp_path / "alone")
    assert list(fedray.rounds(experiment, bucket.as_uri())) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_rounds_are_yielded_after_their_upload(tmp_path: Path, switch_machine: SwitchMachine) -> None:
    """Each upload takes as long as several rounds: no checkpoint may be deleted before its upload."""
    switch_machine()
    sections = {**BASE, "strategy": {"name": "fml"}, "training": {**BASE["training"], "rounds": 4}}
    on_ray = Experiment.model_validate({**sections, "resources": {"backend": "ray"}})
    for result in fedray.rounds(on_ray, f"fsspec+slow://{tmp_path}/bucket/run"):
        loaded = checkpoint.load(tmp_path / "bucket" / "run" / "checkpoint")
        assert loaded is not None
        assert loaded[0].round - result.round in (0, 1)  # uploaded before the round is yielded
    list(Driver(Experiment.model_validate(sections), tmp_path / "alone").run())
    assert bits(tmp_path / "bucket" / "run") == bits(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_sweep_resumes_on_another_machine_with_the_same_weights(tmp_path: Path, switch_machine: SwitchMachine) -> None:
    from fedray.study.tune.sweep import sweep

    switch_machine()
    bucket = tmp_path / "bucket"
    run_rounds(make_study(tmp_path, bucket.as_uri()).trials()[0], last=1)
    switch_machine()
    trials = sweep(make_study(tmp_path, bucket.as_uri()))
    assert [trial.state for trial in trials] == ["finished", "finished"]
    for trial in trials:
        remote, alone = bucket / "study" / trial.name, tmp_path / "alone" / trial.name
        list(Driver(trial.experiment, alone).run())
        assert bits(remote) == bits(alone)
        rounds = [pd.read_csv(folder / "rounds.csv") for folder in (remote, alone)]
        assert rounds[0]["test_accuracy"].tolist() == rounds[1]["test_accuracy"].tolist()
        assert sorted(path.name for path in (remote / "checkpoint").iterdir()) == ["round-00002", "round-00003"]
    assert list((bucket / "study/tune").rglob("events.out.tfevents.*"))
    assert not list(bucket.rglob("*.partial"))

    switch_machine()
    before = {file: file.stat().st_mtime_ns for file in bucket.rglob("*.*") if file.name != "trials.csv"}
    assert [trial.state for trial in sweep(make_study(tmp_path, bucket.as_uri()))] == ["finished"] * 2
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert fedray.load_results(bucket.as_uri()).rounds.groupby("seed")["round"].max().to_dict() == {0: 3, 1: 3}
    assert pd.read_csv(bucket / "study/trials.csv")["state"].tolist() == ["finished"] * 2


def test_folder_name_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(SpecError, match=r"the folder of results 'a\\udcff' is no UTF-8 text; choose another name"):
        storage_of(os.fsdecode(b"a\xff"))
