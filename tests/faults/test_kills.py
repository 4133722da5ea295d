"""Kills processes of a run at random moments. The same run, continued, ends in the undisturbed weights and tables.

FEDRAY_KILLS is the number of kills (default 30, spread over the kinds of process), FEDRAY_KILL_SEED their seed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from helpers.damage import run_content
from helpers.processes import ray_processes, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3600)]

KINDS = (
    ("run", "command"), ("run", "DriverActor"), ("run", "WorkerActor"), ("run", "raylet"), ("run", "gcs_server"),
    ("sweep", "command"), ("sweep", "SharedObjects"), ("sweep", "FedTrainable"),
)  # fmt: skip
"""Commands, and the process of each that is killed."""
KILLS = int(os.environ.get("FEDRAY_KILLS", "30"))
SEED = int(os.environ.get("FEDRAY_KILL_SEED", "0"))
LIMIT_S = 90
MAX_ATTEMPTS = 5
"""Attempts to kill a process before its command ends, each at half the delay of the one before."""
BASE: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 60},
    "partition": {"kind": "iid", "clients": 3},
    "strategy": {"name": "fml"},
    "training": {"rounds": 20, "batch_size": 16},
}
SPECS: dict[str, Any] = {"run": BASE, "sweep": {"base": BASE, "space": {"seed": {"grid": [0, 1]}}}}


@dataclass(frozen=True)
class Kill:
    """`delay_s` counts from the first finished round; `outcome` is the exit code, or `hangs`."""

    kind: str
    delay_s: float
    outcome: str
    seconds: float


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "fedray", *arguments, "--quiet"]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def end_group(process: subprocess.Popen[str], children: Mapping[int, str]) -> None:
    """Kill what is left of a command: its process group, and Ray's processes, which have groups of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def has_round(folder: Path) -> bool:
    tables = folder.glob("results/spec/**/rounds.csv")
    return any(table.read_text().count("\n") > 1 for table in tables)


def kill_once(folder: Path, name: str, kind: str, delay_s: float) -> Kill | None:
    """Start a command, kill one process of the kind `delay_s` after the first round, and wait for the command.

    Returns None if the command or the process had ended before.
    """
    process = command(folder, name, "spec.yaml", "resources.backend=ray")
    wait_for(lambda: has_round(folder) or process.poll() is not None, 2 * LIMIT_S)
    time.sleep(delay_s)
    children = ray_processes(process.pid) if process.poll() is None else {}
    found = [child for child, title in children.items() if title == kind] if kind != "command" else [process.pid]
    if process.poll() is not None or not found:
        process.communicate(timeout=LIMIT_S)
        return None
    start = time.monotonic()
    try:
        os.kill(found[0], signal.SIGKILL)
    except ProcessLookupError:
        process.communicate(timeout=LIMIT_S)
        return None
    try:
        _, errors = process.communicate(timeout=LIMIT_S)
        outcome = str(process.returncode) if "Traceback" not in errors else "traceback"
    except subprocess.TimeoutExpired:
        outcome = "hangs"
    end_group(process, children)
    return Kill(f"{name}: {kind}", delay_s, outcome, time.monotonic() - start)


def kill_in_time(folder: Path, name: str, kind: str, delay_s: float) -> tuple[Kill, Path]:
    """Kill earlier until the process is killed before its command ends. Return the kill, and the folder of the run."""
    for attempt in range(MAX_ATTEMPTS):
        place = folder / str(attempt)
        place.mkdir(parents=True)
        (place / "spec.yaml").write_text(yaml.safe_dump(SPECS[name]))
        if (kill := kill_once(place, name, kind, delay_s / 2**attempt)) is not None:
            return kill, place
    pytest.fail(f"{name} always ends before {kind} is killed")


def contents(folder: Path) -> dict[str, object]:
    """Return the content of each run of a command, by its folder."""
    found = (folder / "results").glob("spec/**/model.safetensors")
    return {str(model.parent.relative_to(folder)): run_content(model.parent) for model in found}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """The contents of each command's runs, made serially."""
    expected = {}
    for name, spec in SPECS.items():
        folder = tmp_path_factory.mktemp("undisturbed")
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
        _, errors = command(folder, "run", "spec.yaml", "resources.backend=serial").communicate(timeout=300)
        assert not errors
        expected[name] = contents(folder)
    assert [len(runs) for runs in expected.values()] == [1, 2]
    return expected


def moments(name: str, kind: str) -> Iterator[float]:
    """Yield the delays of this kind's share of the kills, in seconds."""
    number = KINDS.index((name, kind))
    random = Random(f"{SEED} {name} {kind}")
    for _ in range(KILLS // len(KINDS) + (number < KILLS % len(KINDS))):
        yield random.uniform(0, 3)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_killed_process(
    name: str,
    kind: str,
    undisturbed: dict[str, dict[str, object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kills = []
    for number, delay_s in enumerate(moments(name, kind)):
        kill, folder = kill_in_time(tmp_path / str(number), name, kind, delay_s)
        kills.append(kill)
        with capsys.disabled():
            print(
                f"\n{kill.kind:<22} {kill.delay_s:5.2f} s after round 1: {kill.outcome}, {kill.seconds:.1f} s", end=""
            )
        again = command(folder, "run", "spec.yaml", "--resume", "resources.backend=serial")
        _, errors = again.communicate(timeout=LIMIT_S)
        assert "Traceback" not in errors
        assert contents(folder) == undisturbed[name], errors
    allowed = {str(-signal.SIGKILL)} if kind == "command" else {"0", "1"}
    assert not [kill for kill in kills if kill.outcome not in allowed]
