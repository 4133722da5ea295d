"""Measure a command from outside: its time, the ends of its rounds, and memory and CPU of all its processes.

Linux only; needs no root. The command's processes are those with its mark in their environment, and their children.
This includes Ray's daemons, which leave the session and the process group.
"""

import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

ROUND = re.compile(r"\bround (\d+)/\d+(?:.*\bloss ([\d.]+|nan), accuracy ([\d.]+|nan)$)?")
"""A line printed at the end of a round. Only the first line with a round's number counts."""
MARK = "BENCHMARK_RUN"
SAMPLE_INTERVAL_S = 1.0
"""Seconds between two samples of the processes. CPU time after a process's last sample is not counted."""
PSS_GROWTH = 1.02
"""PSS is read when RSS has grown by this factor: reading PSS takes 25 ms per process with torch, RSS much less."""
EXIT_GRACE_S = 10.0
"""Seconds that daemons have to end after the command."""
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")

Process = tuple[int, int]
"""Pid and start time, since pids are reused."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one command."""

    code: int  # exit code
    wall: float  # seconds until the command itself ended
    ends: Sequence[float]  # ends of rounds, seconds since the start
    loss: Sequence[float]
    accuracy: Sequence[float]
    peak_pss: int  # bytes, all processes together
    processes: int  # largest number at a time
    cpu: float  # seconds, of all processes
    others: float  # mean number of cores used by other processes
    left: int  # processes that had to be killed
    last_lines: Sequence[str]


def measure(
    words: Sequence[str], environment: Mapping[str, str], limit: float, interval: float = SAMPLE_INTERVAL_S
) -> Measured:
    """Run a command until it ends; kill it after `limit` seconds."""
    mark = uuid.uuid4().hex
    busy, start = busy_seconds(), time.perf_counter()
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment, MARK: mark},
    )
    with ProcessSampler(mark, interval) as sampler, Deadline(limit, sampler):
        lines = Lines(start)
        assert process.stdout is not None
        reader = threading.Thread(target=lines.read, args=(process.stdout,), daemon=True)
        reader.start()
        code = process.wait()
        wall = time.perf_counter() - start
        spent = busy_seconds() - busy
        cpu = sampler.cpu
        left = sampler.end(EXIT_GRACE_S)
        reader.join(timeout=EXIT_GRACE_S)
        process.stdout.close()
    return Measured(
        code, wall, lines.ends, lines.loss, lines.accuracy,
        sampler.peak_pss, sampler.max_processes, cpu, max(0.0, spent - cpu) / wall, left, list(lines.last),
    )  # fmt: skip


class Lines:
    """Read a command's output line by line, and the ends of rounds in it."""

    def __init__(self, start: float) -> None:
        self._start = start
        self.ends: list[float] = []
        self.loss: list[float] = []
        self.accuracy: list[float] = []
        self.last: deque[str] = deque(maxlen=40)

    def read(self, stream: IO[str]) -> None:
        for line in stream:
            now = time.perf_counter() - self._start
            self.last.append(line.rstrip())
            self._record(ROUND.search(line.rstrip()), now)

    def _record(self, match: re.Match[str] | None, now: float) -> None:
        if match is None or int(match[1]) != len(self.ends) + 1:
            return
        self.ends.append(now)
        if match[2] is not None:
            self.loss.append(float(match[2]))
            self.accuracy.append(float(match[3]))


class ProcessSampler:
    """Samples the processes with a mark from a thread."""

    def __init__(self, mark: str, interval: float) -> None:
        self._interval = interval
        self._mark = f"{MARK}={mark}".encode()
        self._others: set[Process] = set()
        self._cpu: dict[Process, float] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_over, daemon=True)
        self.peak_pss = self.max_processes = self._peak_rss = 0

    def __enter__(self) -> "ProcessSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def cpu(self) -> float:
        """CPU seconds of all processes, ended ones included."""
        return sum(self._cpu.values())

    def end(self, grace: float) -> int:
        """Wait `grace` seconds for the processes to end, then kill the rest; returns the number killed."""
        deadline = time.monotonic() + grace
        while (running := self._find()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid, _ in running:
            kill(pid)
        return len(running)

    def _sample_until_over(self) -> None:
        while not self._over.wait(self._interval):
            running = self._find()
            self.max_processes = max(self.max_processes, len(running))
            resident = sum(rss(pid) for pid, _ in running)
            if resident > PSS_GROWTH * self._peak_rss:
                self._peak_rss = resident
                self.peak_pss = max(self.peak_pss, sum(pss(pid) for pid, _ in running))

    def _find(self) -> list[Process]:
        """Return the running processes and records their CPU time."""
        with self._lock:
            stats = [stat for entry in Path("/proc").glob("[0-9]*") if (stat := read_stat(entry))]
            for stat in stats:
                if self._is_marked(stat):
                    self._cpu[stat.process] = stat.cpu
                else:
                    self._others.add(stat.process)
            return [stat.process for stat in stats if stat.process in self._cpu]

    def _is_marked(self, stat: "Stat") -> bool:
        if stat.process in self._cpu or stat.process in self._others:
            return stat.process in self._cpu
        return any(pid == stat.parent for pid, _ in self._cpu) or self._mark in environment_of(stat.process[0])


class Deadline:
    """Kills the sampled processes after `seconds`."""

    def __init__(self, seconds: float, sampler: ProcessSampler) -> None:
        self._timer = threading.Timer(seconds, sampler.end, args=(0.0,))

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


class Stat(NamedTuple):
    process: Process
    parent: int
    cpu: float  # seconds of CPU


def read_stat(entry: Path) -> Stat | None:
    """Return a process's entry in /proc, or None for a zombie or an ended process."""
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z":
        return None
    return Stat((int(entry.name), int(fields[19])), int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS)


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def rss(pid: int) -> int:
    """Return resident bytes; shared memory counts in full."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def pss(pid: int) -> int:
    """Return proportional bytes: memory shared by n processes counts 1/n for each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def busy_seconds() -> float:
    """Return the busy seconds of all cores since the machine started."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / TICKS
