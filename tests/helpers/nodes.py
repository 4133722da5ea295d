"""The cluster of launch/local, a small space for it, and helpers for shell commands."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "local" / "cluster.sh"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

SPACE: dict[str, Any] = {
    "base": {
        "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 60, "public_fraction": 0.2},
        "partition": {"kind": "iid", "clients": 2},
        "proxy": {"name": "cnn", "norm": "batch"},
        "teacher": {"kind": "supervised", "epochs": 2},
        "training": {"rounds": 2, "batch_size": 16, "optimizer": {"lr": 0.05}},
    },
    "space": {"strategy.name": {"grid": ["fedavg", "fedlpfm"]}},
}


def shell(
    command: Sequence[str | Path], environment: Mapping[str, str], seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends and return its output; raise TimeoutExpired after `seconds`."""
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=seconds, check=False)


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
    return port


def clean_environment(folder: Path) -> dict[str, str]:
    """Return this environment without the variables of Ray and fedray, with home and teacher cache below `folder`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FEDRAY_"))}
    return {**inherited, "PATH": PATH, "HOME": str(folder), "FEDRAY_CACHE": str(folder / "cache")}


def write_space(path: Path, **training: Any) -> Path:
    """Write a space of two trials, with changes of the training section, and return its path."""
    space = {**SPACE, "base": {**SPACE["base"], "training": {**SPACE["base"]["training"], **training}}}
    path.write_text(yaml.safe_dump(space))
    return path


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a temporary folder with a short path: Ray's sockets are below it, and their paths are limited."""
    folder = Path(tempfile.mkdtemp(prefix="fr", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(nodes: int) -> Iterator[dict[str, str]]:
    """Start a cluster of `nodes` nodes and yield the environment with which fedray and `cluster.sh` use it."""
    with short_folder() as folder:
        environment = clean_environment(folder)
        environment |= {"FEDRAY_CLUSTER": str(folder / "c"), "FEDRAY_CLUSTER_PORT": str(free_port())}
        environment |= {"OBJECT_STORE": "200000000"}
        try:
            up = shell([SCRIPT, "up", str(nodes)], environment)
            assert up.returncode == 0, up.stderr
            lines = shell([SCRIPT, "env"], environment).stdout.removeprefix("export ").split()
            yield environment | dict(line.split("=", 1) for line in lines)
        finally:
            shell([SCRIPT, "down"], environment)


def session_pids(leader: int) -> list[int]:
    """Return the process ids of a session."""
    result = subprocess.run(["pgrep", "--session", str(leader)], text=True, capture_output=True, check=False)
    return [int(line) for line in result.stdout.split()]


def kill_session(leader: int) -> None:
    """Kill all processes of a session that a test started."""
    for process in session_pids(leader):
        os.kill(process, signal.SIGKILL)
