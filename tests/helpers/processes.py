"""Tests' view of processes: waits for a condition, and finds the actors of a Ray."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

TITLE = re.compile(r"^(raylet|gcs_server)$|^ray::(\w+)|(log_monitor)\.py$", re.MULTILINE)


def wait_for(condition: Callable[[], bool], timeout_s: float = 180) -> None:
    """Wait until the condition holds. Fails after `timeout_s` seconds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"the condition does not hold after {timeout_s:g} seconds"
        time.sleep(0.02)


def actors(root: int) -> dict[int, str]:
    """Return the class names of Ray's actors among the descendants of a process, by process id."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue  # the process has just ended

    def descends(process: int) -> bool:
        while process in parents and process != root:
            process = parents[process]
        return process == root

    matches = {process: re.match(r"ray::(\w+)", title) for process, title in titles.items() if descends(process)}
    return {process: match[1] for process, match in matches.items() if match}


def ray_processes(root: int) -> dict[int, str]:
    """Return the names of Ray's processes and actors among the descendants of a process, by process id.

    They are `raylet`, `gcs_server`, `log_monitor`, `DashboardAgent`, `RuntimeEnvAgent`, and the class names of actors.
    """
    found = {}
    for process in psutil.Process(root).children(recursive=True):
        with suppress(psutil.Error):
            if match := TITLE.search("\n".join([process.name(), *process.cmdline()])):
                found[process.pid] = next(filter(None, match.groups()))
    return found
