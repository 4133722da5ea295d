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

KINDS = ("command", "DriverActor", "WorkerActor", "raylet", "gcs_server")
KILLS = int(os.environ.get("FEDRAY_KILLS", "30"))
SEED = int(os.environ.get("FEDRAY_KILL_SEED", "0"))
LIMIT_S = 90
SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 60},
    "partition": {"kind": "iid", "clients": 3},
    "strategy": {"name": "fml"},
    "training": {"rounds": 20, "batch_size": 16},
}


@dataclass(frozen=True)
class Kill:
    """`delay_s` counts from the first finished round; `outcome` is the exit code, or `hangs`."""

    kind: str
    delay_s: float
    outcome: str
    seconds: float


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "fedray", "run", "spec.yaml", "--quiet", *arguments]
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
    table = folder / "results" / "spec" / "rounds.csv"
    return table.exists() and table.read_text().count("\n") > 1


def kill_once(folder: Path, kind: str, delay_s: float) -> Kill:
    """Start a run, kill one process of the kind `delay_s` after the first round, and wait for the command."""
    process = command(folder, "resources.backend=ray")
    wait_for(lambda: has_round(folder) or process.poll() is not None, LIMIT_S)
    time.sleep(delay_s)
    children = ray_processes(process.pid)
    found = [child for child, name in children.items() if name == kind] if kind != "command" else [process.pid]
    if not found:
        process.communicate(timeout=LIMIT_S)
        return Kill(kind, delay_s, "finished before", 0)
    start = time.monotonic()
    with suppress(ProcessLookupError):
        os.kill(found[0], signal.SIGKILL)
    try:
        _, errors = process.communicate(timeout=LIMIT_S)
        outcome = str(process.returncode) if "Traceback" not in errors else "traceback"
    except subprocess.TimeoutExpired:
        outcome = "hangs"
    end_group(process, children)
    return Kill(kind, delay_s, outcome, time.monotonic() - start)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    _, errors = command(folder, "resources.backend=serial").communicate(timeout=300)
    assert not errors
    return run_content(folder / "results" / "spec")


def moments(kind: str) -> Iterator[float]:
    """Yield the delays of this kind's share of the kills, in seconds."""
    number = KINDS.index(kind)
    random = Random(f"{SEED} {kind}")
    for _ in range(KILLS // len(KINDS) + (number < KILLS % len(KINDS))):
        yield random.uniform(0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_process(
    kind: str, undisturbed: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = []
    for number, delay_s in enumerate(moments(kind)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
        kills.append(kill_once(folder, kind, delay_s))
        with capsys.disabled():
            print(
                f"\n{kind:<12} {delay_s:5.2f} s after round 1: {kills[-1].outcome}, {kills[-1].seconds:.1f} s", end=""
            )
        _, errors = command(folder, "--resume", "resources.backend=serial").communicate(timeout=LIMIT_S)
        assert "Traceback" not in errors
        assert run_content(folder / "results" / "spec") == undisturbed, errors
    assert not [kill for kill in kills if kill.outcome in ("hangs", "traceback")]
