"""What identifies a run is recorded, whole, and compared before an unfinished run continues."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, ignore_patterns

import pandas as pd
import pytest
from PIL import Image

import fedray
from fedray.code_hash import NUMERIC_CODE, code_hash
from fedray.config.experiment import Experiment
from fedray.data import federated
from fedray.errors import SpecError
from fedray.results.contents import PresentContents, contents_of
from fedray.results.environment import read_environment, write_environment
from fedray.results.identity import RunIdentity
from fedray.results.mixtures import mixtures
from fedray.results.run_folder import RunFolder
from fedray.server.driver import Driver

Make = Callable[..., Experiment]


def start(experiment: Experiment, folder: Path) -> RunFolder:
    """Run the first of three rounds."""
    rounds = fedray.rounds(experiment, folder)
    next(rounds)
    rounds.close()
    return RunFolder(folder)


def rounds_of(experiment: Experiment, folder: Path, **options: bool) -> list[int]:
    return [result.round for result in fedray.rounds(experiment, folder, **options)]


def rewrite(folder: RunFolder, change: Callable[[RunIdentity], RunIdentity]) -> None:
    """Replace the recorded identity, as another process would have written it."""
    document = read_environment(folder.path)
    recorded = folder.identity
    assert recorded is not None
    write_environment(folder.path, document | {"identity": change(recorded).document()})


@pytest.fixture
def on_images(small: Make, tmp_path: Path) -> Experiment:
    """An experiment on a folder of 40 images in two classes."""
    for number in range(40):
        folder = tmp_path / "images" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 5 * number).save(folder / f"{number}.png")
    source = f"folder:{tmp_path / 'images'}"
    data = {"train": source, "test": source, "train_limit": None, "test_limit": None, "public_fraction": 0.0}
    return small(data=data, partition={"kind": "iid", "clients": 2}, teacher=None)


def edit_image(tmp_path: Path) -> None:
    """Change one image, but neither the size nor the time of its file."""
    file = tmp_path / "images" / "dog" / "1.png"
    times, size = (file.stat().st_atime_ns, file.stat().st_mtime_ns), file.stat().st_size
    Image.new("L", (8, 8), 6).save(file)
    assert file.stat().st_size == size
    os.utime(file, ns=times)


def test_the_identity_of_a_run_is_recorded(small: Make, tmp_path: Path) -> None:
    folder = start(small(), tmp_path / "run")
    identity = folder.identity
    assert identity is not None
    data = federated.load(small().data, small().partition, small().seed)
    assert identity.contents == contents_of(small(), data)
    assert identity.contents["data.train"].digest == data.train.content_digest
    assert identity.code == [code_hash(NUMERIC_CODE)]
    assert (identity.device, identity.threads) == ("cpu", 1)
    assert identity.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert read_environment(folder.path)["format"] == 2


@pytest.mark.parametrize("position", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_one_changed_digit_of_environment_json_is_noticed(small: Make, tmp_path: Path, position: float) -> None:
    folder = start(small(), tmp_path / "run")
    file = folder.path / "environment.json"
    text = file.read_text()
    place = next(i for i in range(int(position * len(text)), len(text)) if text[i].isdigit())
    file.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")
    with pytest.raises(SpecError, match=r"environment\.json is missing or damaged"):
        rounds_of(small(), folder.path)
    file.write_text(text)
    assert rounds_of(small(), folder.path) == [2, 3]


def test_an_unfinished_run_without_an_identity_is_refused_also_by_its_driver(small: Make, tmp_path: Path) -> None:
    folder = start(small(), tmp_path / "run")
    document = read_environment(folder.path)
    (folder.path / "environment.json").write_text(json.dumps(document))  # without its checksum
    with pytest.raises(SpecError, match=r"environment\.json records no identity"):
        rounds_of(small(), folder.path)
    with pytest.raises(SpecError, match=r"environment\.json records no identity"):
        list(Driver(small(), folder.path).run())


class TestData:
    @pytest.mark.parametrize("finished", [False, True])
    def test_another_image_is_refused(self, on_images: Experiment, tmp_path: Path, finished: bool) -> None:
        folder = start(on_images, tmp_path / "run")
        if finished:
            rounds_of(on_images, folder.path)
        Image.new("L", (8, 8), 200).save(tmp_path / "images" / "dog" / "1.png")
        with pytest.raises(
            SpecError, match=r"other contents of data\.train; restore them, or choose another --results"
        ):
            rounds_of(on_images, folder.path)

    def test_a_touched_image_is_not(self, on_images: Experiment, tmp_path: Path) -> None:
        folder = start(on_images, tmp_path / "run")
        for file in (tmp_path / "images").rglob("*.png"):
            os.utime(file, (1, 1))
        assert rounds_of(on_images, folder.path) == [2, 3]
        assert rounds_of(on_images, folder.path) == []

    def test_a_change_that_hides_its_time_is_found_by_verify_data_and_by_the_driver(
        self, on_images: Experiment, tmp_path: Path
    ) -> None:
        finished, started = start(on_images, tmp_path / "finished"), start(on_images, tmp_path / "started")
        rounds_of(on_images, finished.path)
        edit_image(tmp_path)
        assert rounds_of(on_images, finished.path) == []
        with pytest.raises(SpecError, match=r"other contents of data\.train"):
            rounds_of(on_images, finished.path, verify_data=True)
        with pytest.raises(SpecError, match=r"other contents of data\.train"):
            rounds_of(on_images, started.path)

    def test_a_finished_run_is_kept_where_its_data_are_gone(self, on_images: Experiment, tmp_path: Path) -> None:
        rounds_of(on_images, tmp_path / "run")
        (tmp_path / "images").rename(tmp_path / "moved")
        assert rounds_of(on_images, tmp_path / "run") == []
        (note,) = RunFolder(tmp_path / "run").check(on_images)
        assert "was not compared with its data" in note

    def test_another_partition_file_is_refused(self, small: Make, tmp_path: Path) -> None:
        file = tmp_path / "clients.csv"
        frame = pd.DataFrame({"client": [number % 4 for number in range(200)], "index": range(200)})
        frame["index"] = federated.load(small().data, small().partition, 0).train.rows
        frame.to_csv(file, index=False)
        spec = small(data={"public_fraction": 0.0}, partition={"kind": "file", "file": str(file)}, teacher=None)
        folder = start(spec, tmp_path / "run")
        frame.assign(client=frame["client"][::-1].to_numpy()).to_csv(file, index=False)
        with pytest.raises(SpecError, match=r"other contents of partition\.file"):
            rounds_of(spec, folder.path)

    def test_built_in_digits_are_compared(self, small: Make, tmp_path: Path) -> None:
        folder = start(small(), tmp_path / "run")
        rewrite(folder, lambda identity: replace(identity, contents={
            name: replace(content, digest="0" * 64, stamp="") for name, content in identity.contents.items()
        }))  # fmt: skip
        with pytest.raises(SpecError, match=r"other contents of data\.train"):
            rounds_of(small(), folder.path)

    def test_data_are_read_once_for_all_trials(self, on_images: Experiment, tmp_path: Path) -> None:
        folder = start(on_images, tmp_path / "run")
        contents, identity = PresentContents(verify=True), folder.identity
        assert identity is not None
        assert contents.differing(on_images, identity.contents) is None
        edit_image(tmp_path)
        assert contents.differing(on_images, identity.contents) is None
        assert PresentContents(verify=True).differing(on_images, identity.contents) == "data.train"


class TestThreadsAndDevice:
    def test_other_threads_are_refused(self, small: Make, tmp_path: Path) -> None:
        folder = start(small(), tmp_path / "run")
        two = small(resources={"cpus_per_client": 2})
        message = r"started with 1 threads per client, and resources\.cpus_per_client now gives 2"
        with pytest.raises(SpecError, match=message):
            rounds_of(two, folder.path)
        with pytest.raises(SpecError, match=message):
            list(Driver(two, folder.path).run())
        assert rounds_of(small(resources={"cpus_per_client": 1.5}), folder.path) == [2, 3]
        assert rounds_of(two, folder.path) == []  # a finished run keeps its results

    def test_another_kind_of_device_is_refused(self, small: Make, tmp_path: Path) -> None:
        folder = start(small(), tmp_path / "run")
        rewrite(folder, lambda identity: replace(identity, device="cuda"))
        with pytest.raises(SpecError, match="was started on cuda, and clients would now train on cpu"):
            rounds_of(small(), folder.path)


class TestCode:
    @pytest.fixture
    def other_code(self, small: Make, tmp_path: Path) -> RunFolder:
        folder = start(small(), tmp_path / "run")
        rewrite(folder, lambda identity: replace(identity, code=["0123456789"]))
        return folder

    def test_an_unfinished_run_of_other_code_is_refused(self, small: Make, other_code: RunFolder) -> None:
        message = r"was started with other code \(01234567, now .*\); restore it, or continue with --allow-code-change"
        with pytest.raises(SpecError, match=message):
            rounds_of(small(), other_code.path)
        with pytest.raises(SpecError, match=message):
            list(Driver(small(), other_code.path).run())

    def test_allowed_code_is_recorded(self, small: Make, other_code: RunFolder) -> None:
        assert rounds_of(small(), other_code.path, allow_code_change=True) == [2, 3]
        assert other_code.identity is not None
        assert other_code.identity.code == ["0123456789", code_hash(NUMERIC_CODE)]
        faults = pd.read_csv(other_code.path / "faults.csv")
        assert faults["fault"].tolist() == ["interrupted", "other environment"]
        assert faults["reason"].iloc[1].startswith("other code (01234567, now ")
        assert rounds_of(small(), other_code.path) == []

    def test_a_finished_run_of_other_code_is_reported(self, small: Make, tmp_path: Path) -> None:
        rounds_of(small(), tmp_path / "run")
        folder = RunFolder(tmp_path / "run")
        assert folder.check(small()) == []
        rewrite(folder, lambda identity: replace(identity, code=["0123456789"]))
        assert folder.check(small()) == [f"the finished run in '{folder.path}' was made with other code (01234567)."]

    @pytest.mark.slow
    def test_an_edited_loss_is_refused_and_a_comment_is_not(self, small: Make, tmp_path: Path) -> None:
        """In a copy of the package, as a user edits it between a kill and the next start."""
        copytree(Path(fedray.__file__).parent, tmp_path / "fedray", ignore=ignore_patterns("__pycache__"))
        (tmp_path / "spec.json").write_text(small().model_dump_json())
        script = (
            "import fedray, sys\n"
            "spec = fedray.Experiment.model_validate_json(open('spec.json').read())\n"
            "try:\n"
            "    for result in fedray.rounds(spec, 'run'):\n"
            "        if len(sys.argv) > 1: break\n"
            "    print(fedray.load_results('run').rounds['round'].max())\n"
            "except fedray.SpecError as error: print(error)\n"
        )

        def execute(*arguments: str) -> str:
            command = [sys.executable, "-c", script, *arguments]
            return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

        assert execute("one round") == "1\n"
        losses = tmp_path / "fedray" / "losses" / "functional.py"
        losses.write_text("# edited\n" + losses.read_text())
        assert execute("one round") == "2\n"
        losses.write_text(losses.read_text() + "\nSCALE = 2\n")
        assert "was started with other code" in execute()


def test_other_versions_are_reported_and_recorded(small: Make, tmp_path: Path) -> None:
    folder = start(small(), tmp_path / "run")
    rewrite(folder, lambda identity: replace(identity, versions={**identity.versions, "torch": "0.1"}))
    results = list(fedray.rounds(small(), folder.path))
    (warning,) = results[0].warnings
    assert warning.startswith("the run is continued with torch 0.1 before, ")
    faults = pd.read_csv(folder.path / "faults.csv")
    assert faults.iloc[1][["fault", "response"]].tolist() == ["other environment", "resumed from round 1"]
    assert faults["reason"].iloc[1].startswith("torch 0.1 before, ")


def test_mixed_identities_of_a_study_are_described(small: Make, tmp_path: Path) -> None:
    identity = start(small(), tmp_path / "run").identity
    assert identity is not None
    one, limited = {"data.train": "folder:a", "seed": 0}, {"data.train_limit": 10}
    assert mixtures([(identity, one), (identity, one | {"seed": 1}), (None, one)]) == []
    other = replace(identity, code=["0123456789", "abcdefghij"], threads=2)
    code, threads = mixtures([(identity, one), (other, one), (identity, one)])
    assert code == f"the runs differ in code: {identity.code[0][:8]} (2 runs), 01234567+abcdefgh (1 run)."
    assert threads == "the runs differ in threads: 1 (2 runs), 2 (1 run)."
    changed = {name: replace(content, digest="5" * 64) for name, content in identity.contents.items()}
    others = replace(identity, contents=changed)
    train, test = mixtures([(identity, one), (others, one)])
    assert train.startswith("the runs differ in data.train: ")
    assert test.endswith(", 55555555 (1 run).")
    assert mixtures([(identity, one), (others, one | {"data.train": "folder:b"})]) == []
    assert mixtures([(identity, one | limited), (others, one | limited | {"seed": 1})]) == []
