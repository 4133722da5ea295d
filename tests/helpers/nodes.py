"""The cluster of launch/local, a small space for it, and what shell commands need in a test."""

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
        "training": {"rounds": 2, "batch_size": 16, "lr": 0.05},
    },
    "space": {"strategy.name": {"grid": ["fedavg", "fedlpfm"]}},
}


def shell(
    command: Sequence[str | Path], environment: Mapping[str, str], seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run to its end."""
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=seconds, check=False)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
    return port


def own_environment(folder: Path) -> dict[str, str]:
    """This one without what concerns Ray, and with a home and a bank of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FEDRAY_"))}
    return {**kept, "PATH": PATH, "HOME": str(folder), "FEDRAY_CACHE": str(folder / "cache")}


def write_space(path: Path, **training: Any) -> Path:
    space = {**SPACE, "base": {**SPACE["base"], "training": {**SPACE["base"]["training"], **training}}}
    path.write_text(yaml.safe_dump(space))
    return path


@contextmanager
def short_folder() -> Iterator[Path]:
    """Ray's sockets lie below it; pytest's own folders have too long names for that."""
    folder = Path(tempfile.mkdtemp(prefix="fr", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(nodes: int) -> Iterator[dict[str, str]]:
    """The environment in which `cluster.sh` and fedray find it."""
    with short_folder() as folder:
        environment = own_environment(folder)
        environment |= {"FEDRAY_CLUSTER": str(folder / "c"), "FEDRAY_CLUSTER_PORT": str(free_port())}
        environment |= {"OBJECT_STORE": "200000000"}
        try:
            up = shell([SCRIPT, "up", str(nodes)], environment)
            assert up.returncode == 0, up.stderr
            lines = shell([SCRIPT, "env"], environment).stdout.removeprefix("export ").split()
            yield environment | dict(line.split("=", 1) for line in lines)
        finally:
            shell([SCRIPT, "down"], environment)


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = subprocess.run(["pgrep", "--session", str(leader)], text=True, capture_output=True, check=False)
    return [int(line) for line in found.stdout.split()]


def end(leader: int) -> None:
    """End a session that a test has started."""
    for process in session(leader):
        os.kill(process, signal.SIGKILL)
