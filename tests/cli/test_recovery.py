"""Commands whose Ray, here a `sleep`, is killed: they start again, or end in limited time."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import signal, subprocess, sys
from threading import Event
import psutil
from fedray.backends.ray.supervision import supervision
from fedray.cli.exits import exit_on_stop
from fedray.cli.recovery import is_restarted, recovery

with recovery():
    if is_restarted() and sys.argv[-1] != "lost again":
        print("went on with", sys.argv[1:])
        raise SystemExit(0)
    with exit_on_stop():
        raylet = subprocess.Popen(["sleep", "100"])
        supervision.watch({"raylet": psutil.Process(raylet.pid)}, lambda: "", REPLACED)
        print("started", flush=True)
        raylet.kill()
        BODY
    raise SystemExit(0)
"""
LOST = "fedray: Ray was lost: its process raylet has ended (perhaps memory ran out)"


def run(
    folder: Path, body: str, *arguments: str, restarts: int | None = None, joined: bool = False
) -> "subprocess.CompletedProcess[str]":
    session = "None" if joined else f"__import__('pathlib').Path({str(folder / 'session')!r})"
    code = COMMAND.replace("BODY", body).replace("REPLACED", session)
    environment = dict(os.environ) | ({} if restarts is None else {"FEDRAY_RESTARTS": str(restarts)})
    command = [sys.executable, "-c", code, "run", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False, input="", cwd=folder
    )


def test_a_command_that_hangs_starts_again(tmp_path: Path) -> None:
    done = run(tmp_path, "Event().wait()", "spec.yaml", "a b=1")
    assert done.stdout == "started\nwent on with ['run', 'spec.yaml', 'a b=1']\n"
    assert done.stderr == f"{LOST}; the command starts it again and resumes (1 of 3).\n"
    assert done.returncode == 0


def test_a_command_that_fails_because_ray_is_lost_starts_again(tmp_path: Path) -> None:
    done = run(tmp_path, "raylet.wait(); raise RuntimeError('broken pipe')")
    assert done.stdout.endswith("went on with ['run']\n")
    assert "RuntimeError" not in done.stderr


@pytest.mark.parametrize(
    ("argument", "restarts", "joined"),
    [("lost again", 3, False), ("/dev/stdin", None, False), ("spec.yaml", None, True)],
    ids=["after three restarts", "with a spec from a pipe", "on a cluster that it joined"],
)
def test_a_command_that_cannot_start_again_ends_with_one_sentence(
    tmp_path: Path, argument: str, restarts: int | None, joined: bool
) -> None:
    done = run(tmp_path, "Event().wait()", argument, restarts=restarts, joined=joined)
    command = shlex.join(["fedray", "run", argument])
    assert done.stderr == f"{LOST}.\nEvery finished round is saved; resume with: {command}\n"
    assert done.stdout == "started\n"
    assert done.returncode == 1


def test_sigterm_to_all_processes_ends_the_command_with_0(tmp_path: Path) -> None:
    """A batch system sends it to Ray too: this loss does not start the command again."""
    body = """signal.raise_signal(signal.SIGTERM)"""
    done = run(tmp_path, body, "spec.yaml")
    assert done.stderr.startswith("fedray: stopped by SIGTERM. Every finished round is saved")
    assert "Ray was lost" not in done.stderr
    assert done.returncode == 0


def test_ctrl_c_while_ray_is_lost_ends_the_command_with_130(tmp_path: Path) -> None:
    done = run(tmp_path, "signal.raise_signal(signal.SIGINT)", "spec.yaml")
    assert done.stderr.startswith("fedray: stopped. Every finished round is saved")
    assert "Ray was lost" not in done.stderr
    assert done.returncode == 130


def test_a_command_that_is_done_ends_although_ray_is_lost(tmp_path: Path) -> None:
    done = run(tmp_path, "raylet.wait()")
    assert done.stdout == "started\n"
    assert done.stderr == ""
    assert done.returncode == 0
