"""Damages each file of a run, a study and the teacher cache, and runs the commands that read it.

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
UNDETECTED = {("spec/clients.csv", "bit flip"), ("spec/classes.csv", "bit flip")}
"""Tables have no checksum: a digit of an earlier round that becomes another digit remains in a continued run."""
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
    failed = [case for case in cases if case.outcome in ("WRONG", "TRACEBACK")]
    assert not [case for case in failed if (case.file, case.damage) not in UNDETECTED or case.outcome == "TRACEBACK"]


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


def test_teacher_cache(
    command: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Later runs compute what the cache has lost."""
    whole, cache, results = Path("whole"), Path("cache"), Path("results")
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "whole"))
    assert command("run", "taught.yaml", "--quiet").code == 0
    expected = run_content(results / "taught")
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "cache"))
    cases = []
    for file, damage, make in damaged_copies(whole, cache, SEED):
        make()
        shutil.rmtree(results, ignore_errors=True)
        result = command("run", "taught.yaml", "--quiet")
        is_same = result.code == 0 and not result.crash and run_content(results / "taught") == expected
        cases.append(Case(file, damage, "run", *judge(result, is_same=is_same)))
    check(cases, "teacher cache", capsys)
