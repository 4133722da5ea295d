"""Damages each file of a run, a study, the teacher cache and that of decoded images; runs the commands that read it.

FEDRAY_DAMAGE_SEED chooses the flipped bits (default 0).
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.damage import Case, call_command, damaged_copies, judge, run_content, summary
from helpers.images import picture, png, write_parquet

from fedray.data.image_cache import MIN_IMAGES

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("FEDRAY_DAMAGE_SEED", "0"))
SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 60, "test_limit": 20, "public_fraction": 0.2},
    "partition": {"kind": "iid", "clients": 2},
    "strategy": {"name": "fml"},
    "training": {"rounds": 3, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "resources": {"backend": "serial"},
}
TAUGHT = {**SPEC, "strategy": {"name": "fedlpfm"}, "teacher": {"kind": "supervised", "epochs": 1}}
Read = Callable[[], object]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`command("run", "spec.yaml")` runs fedray in this process, in a folder with four specs."""
    monkeypatch.chdir(tmp_path)
    for name, document in {
        "spec": SPEC,
        "taught": TAUGHT,
        "first": {**SPEC, "training": {**SPEC["training"], "rounds": 2}},
        "study": {"base": SPEC, "space": {"seed": {"grid": [0, 1]}}},
    }.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(document))
    return lambda *arguments: call_command(capsys, arguments)


def damage_all(
    whole: Path, copy: Path, arguments: Sequence[str], command: Callable[..., Any], read: Read, expected: object
) -> list[Case]:
    """Run the command for each damage. `read` returns its results, which an undamaged folder makes `expected`."""
    cases = []
    for file, damage, make in damaged_copies(whole, copy, SEED):
        make()
        result = command(*arguments)
        is_same = False
        if result.code == 0 and not result.crash:
            is_same = (read() if read is not None else result.stdout) == expected
        label = " ".join(word for word in arguments if not word.endswith((".yaml", "out", "results")))
        cases.append(Case(file, damage, label or arguments[0], *judge(result, is_same=is_same)))
    return cases


def check(cases: Sequence[Case], title: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{title}: {len(cases)} cases\n{summary(cases)}")
    assert cases
    assert not [case for case in cases if case.outcome in ("WRONG", "TRACEBACK")]


def same_output(whole: Path, arguments: Sequence[str], command: Callable[..., Any]) -> list[Case]:
    """Damage the files of `results`, whose undamaged output the command repeats."""
    expected = command(*arguments).stdout
    results = Path("results")
    cases = []
    for file, damage, make in damaged_copies(whole, results, SEED):
        make()
        result = command(*arguments)
        cases.append(Case(file, damage, arguments[0], *judge(result, is_same=result.stdout == expected)))
    shutil.rmtree(results)
    shutil.copytree(whole, results)
    return cases


def test_finished_run(command: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", "spec.yaml", "--quiet").code == 0
    whole = Path("whole")
    shutil.copytree("results", whole)
    cases = same_output(whole, ["run", "spec.yaml", "--quiet"], command)
    cases += same_output(whole, ["results", "results"], command)
    check(cases, "finished run", capsys)


def test_unfinished_run(command: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Round 3 of 3 is missing: the run of two rounds has the same first two."""
    whole, results = Path("whole"), Path("results")
    assert command("run", "spec.yaml", "--quiet").code == 0
    expected = run_content(results / "spec")
    shutil.rmtree(results)
    from fedray.config.loader import load
    from fedray.server.driver import Driver

    (planned,) = load(Path("spec.yaml"), [])
    rounds = Driver(planned.experiment, whole / "spec").run()
    next(rounds)
    next(rounds)
    rounds.close()
    arguments = ["run", "spec.yaml", "--resume", "--quiet"]
    cases = damage_all(whole, results, arguments, command, lambda: run_content(results / "spec"), expected)
    check(cases, "unfinished run", capsys)


def test_study(command: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """`run` in place of `sweep`, which reads the same folder: without Ray, in this process."""
    assert command("run", "study.yaml", "--quiet").code == 0
    whole = Path("whole")
    shutil.copytree("results", whole)
    cases = same_output(whole, ["run", "study.yaml", "--quiet"], command)
    cases += same_output(whole, ["results", "results"], command)
    check(cases, "study", capsys)


def test_sweep_and_report_of_a_study(command: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Files of the first trial and of the study. A trial without its model is run again, which `run` covers."""
    assert command("run", "study.yaml", "--quiet").code == 0
    whole, results = Path("whole"), Path("results")
    shutil.copytree(results, whole)
    damaged = [each for each in damaged_copies(whole, results, SEED) if is_read_by_a_report(each[0])]
    cases = []
    for arguments in (["sweep", "study.yaml", "--quiet"], ["report", "results/study", "--out", "report"]):
        expected = command(*arguments).stdout, report_tables(Path("report"))
        for file, damage, make in damaged:
            if arguments[0] == "sweep" and "model.safetensors" in file and damage in ("removed", "folder"):
                continue
            make()
            shutil.rmtree("report", ignore_errors=True)
            result = command(*arguments)
            is_same = (result.stdout, report_tables(Path("report"))) == expected
            cases.append(Case(file, damage, arguments[0], *judge(result, is_same=is_same)))
        shutil.rmtree(results)
        shutil.copytree(whole, results)
    check(cases, "sweep and report", capsys)


def is_read_by_a_report(file: str) -> bool:
    return "checkpoint" not in file and "seed=1" not in file


def report_tables(folder: Path) -> dict[str, bytes]:
    """Return the tables and figures of a report by name; none without it."""
    files = [*folder.glob("tables/*.csv"), *folder.glob("figures/*.svg")]
    return {file.name: file.read_bytes() for file in files}


def test_teacher_cache(damaged_cache: Callable[[str], Sequence[Case]], capsys: pytest.CaptureFixture[str]) -> None:
    """Later runs compute what the cache has lost."""
    check(damaged_cache("taught"), "teacher cache", capsys)


def test_cache_of_decoded_images(
    damaged_cache: Callable[[str], Sequence[Case]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Later runs decode the images again."""
    blobs = [png(picture(seed)) for seed in range(MIN_IMAGES)]
    write_parquet(tmp_path / "a.parquet", blobs, [seed % 2 for seed in range(MIN_IMAGES)])
    data = {"train": "parquet:a.parquet", "test": "parquet:a.parquet"}
    training = {**SPEC["training"], "rounds": 1, "batch_size": 100}
    Path("images.yaml").write_text(yaml.safe_dump({**SPEC, "data": data, "training": training}))
    check(damaged_cache("images"), "cache of decoded images", capsys)


@pytest.fixture
def damaged_cache(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], Sequence[Case]]:
    """`damaged_cache("spec")` damages each file of the cache that a run of spec.yaml leaves, and runs it again."""

    def cases(name: str) -> Sequence[Case]:
        whole, cache, results = Path("whole"), Path("cache"), Path("results")
        monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "whole"))
        assert command("run", f"{name}.yaml", "--quiet").code == 0
        expected = run_content(results / name)
        monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "cache"))
        found = []
        for file, damage, make in damaged_copies(whole, cache, SEED):
            make()
            shutil.rmtree(results, ignore_errors=True)
            result = command("run", f"{name}.yaml", "--quiet")
            is_same = result.code == 0 and not result.crash and run_content(results / name) == expected
            found.append(Case(file, damage, "run", *judge(result, is_same=is_same)))
        return found

    return cases
