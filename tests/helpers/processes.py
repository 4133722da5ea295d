"""What tests need to know of processes: which actors there are, and whether something has come about."""

import re
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(what: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def actors(root: int) -> dict[int, str]:
    """Ray's actors among the descendants of a process: their processes, and the names of their classes."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue  # it has just ended

    def descends(process: int) -> bool:
        while process in parents and process != root:
            process = parents[process]
        return process == root

    found = {process: re.match(r"ray::(\w+)", title) for process, title in titles.items() if descends(process)}
    return {process: match[1] for process, match in found.items() if match}
