"""Damage to files, and judgement of the command that reads them afterwards."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pandas as pd
import pytest

from fedray.cli.main import main

MACHINE_COLUMNS = ("seconds", "time", "node", "memory", "process", "retried", "teacher_", "peak_bytes")
"""Parts of the names of columns that differ between equal runs: by machine, by load, by the state of caches."""


def cut_in_half(file: Path, _: Random) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path, _: Random) -> None:
    file.write_bytes(b"")


def flip_bit(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def remove(file: Path, _: Random) -> None:
    file.unlink()


def replace_by_folder(file: Path, _: Random) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path, Random], None]] = {
    "half": cut_in_half,
    "empty": empty,
    "bit flip": flip_bit,
    "removed": remove,
    "folder": replace_by_folder,
}


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. `crash` is the exception that was not turned into a sentence, or empty."""

    code: int
    stdout: str
    stderr: str
    crash: str


@dataclass(frozen=True)
class Case:
    """A damaged file, the command that read it, and `outcome`: right, reported, sentence, WRONG or TRACEBACK."""

    file: str
    damage: str
    command: str
    outcome: str
    detail: str


def call_command(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> CommandResult:
    """Run `fedray ARGUMENTS` in this process."""
    before, crash, code = sys.argv, "", 0
    sys.argv = ["fedray", *arguments]
    try:
        main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException as error:
        crash = f"{type(error).__name__}: {error}"
    finally:
        sys.argv = before
    output = capsys.readouterr()
    return CommandResult(code, output.out, output.err, crash)


def judge(result: CommandResult, *, is_same: bool) -> tuple[str, str]:
    """Return the outcome of a command and one line about it. `is_same`: its results are the undamaged ones."""
    last = (result.stderr.strip().splitlines() or [""])[-1][:200]
    if result.crash or "Traceback" in result.stderr + result.stdout:
        return "TRACEBACK", result.crash or last
    if result.code in (1, 2):
        return ("sentence", last) if result.stderr.startswith("fedray: ") else ("TRACEBACK", last)
    if result.code:
        return "WRONG", f"exit code {result.code}"
    if is_same:
        return "right", last
    reported = any(
        word in result.stderr + result.stdout for word in ("left out", "damaged", "have not reached", "cannot")
    )
    return ("reported", last) if reported else ("WRONG", result.stdout[-200:])


def damaged_copies(whole: Path, copy: Path, seed: int) -> list[tuple[str, str, Callable[[], None]]]:
    """List (file, damage, action) for each file below `whole`: the action makes a copy with this damage."""

    def action(name: str, damage: str) -> Callable[[], None]:
        def make() -> None:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            DAMAGES[damage](copy / name, Random(f"{seed} {name} {damage}"))

        return make

    files = sorted(str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file())
    return [(name, damage, action(name, damage)) for name in files if not name.endswith(".lock") for damage in DAMAGES]


def run_content(folder: Path) -> dict[str, object]:
    """Return the bytes of a run's final weights, and its tables without the columns that depend on the machine."""
    content: dict[str, object] = {"weights": (folder / "model.safetensors").read_bytes()}
    for name in ("rounds", "clients", "classes", "partition"):
        table = pd.read_csv(folder / f"{name}.csv")
        kept = [column for column in table if not any(part in column for part in MACHINE_COLUMNS)]
        content[name] = table[kept].to_csv(index=False)
    return content


def summary(cases: Sequence[Case]) -> str:
    """Return a table of the number of outcomes by command, and a line for each wrong result or traceback."""
    outcomes = ("right", "reported", "sentence", "WRONG", "TRACEBACK")
    lines = [f"{'command':<24}" + "".join(f"{outcome:>11}" for outcome in outcomes)]
    for command in dict.fromkeys(case.command for case in cases):
        counts = Counter(case.outcome for case in cases if case.command == command)
        lines.append(f"{command:<24}" + "".join(f"{counts[outcome]:>11}" for outcome in outcomes))
    lines += [f"{c.outcome}: {c.command}, {c.damage}: {c.file}: {c.detail}" for c in cases if c.outcome.isupper()]
    return "\n".join(lines)
