"""One command, measured from outside: its seconds, when its rounds end, the memory and CPU of all its processes.

Linux only, and needs no root. Its processes are those that were started with its mark in their environment, and
their children: Ray's daemons, which leave the session and the process group, among them.
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
"""A line that says that a round is over. The first line that names a round counts."""
MARK = "BENCHMARK_RUN"
INTERVAL = 1.0
"""Seconds between two looks at the processes. What one burns after the last look goes uncounted."""
GROWN = 1.02
"""PSS takes the kernel some 25 ms for each process with torch: it is asked for when the cheap RSS has grown so far."""
GRACE = 10.0
"""Seconds that daemons may take to leave when the command has."""
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")

Process = tuple[int, int]
"""An id, and when it started: ids come again."""


@dataclass(frozen=True)
class Measured:
    code: int  # of the exit
    wall: float  # seconds until the command itself was gone
    ends: Sequence[float]  # of rounds, seconds since the start
    loss: Sequence[float]
    accuracy: Sequence[float]
    peak_pss: int  # bytes, of all processes together
    processes: int  # at most
    cpu: float  # seconds, of all processes
    others: float  # cores that others kept busy meanwhile
    left: int  # processes that had to be ended
    last_lines: Sequence[str]


def measure(words: Sequence[str], environment: Mapping[str, str], limit: float, interval: float = INTERVAL) -> Measured:
    """Run a command to its end, or for `limit` seconds."""
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
    with Watch(mark, interval) as watch, Deadline(limit, watch):
        lines = Lines(start)
        assert process.stdout is not None
        reader = threading.Thread(target=lines.read, args=(process.stdout,), daemon=True)
        reader.start()
        code = process.wait()
        wall = time.perf_counter() - start
        spent = busy_seconds() - busy
        cpu = watch.cpu
        left = watch.end(GRACE)
        reader.join(timeout=GRACE)
        process.stdout.close()
    return Measured(
        code, wall, lines.ends, lines.loss, lines.accuracy,
        watch.peak_pss, watch.most, cpu, max(0.0, spent - cpu) / wall, left, list(lines.last),
    )  # fmt: skip


class Lines:
    """What a command prints, read as it comes."""

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
            self._note(ROUND.search(line.rstrip()), now)

    def _note(self, found: re.Match[str] | None, now: float) -> None:
        if found is None or int(found[1]) != len(self.ends) + 1:
            return
        self.ends.append(now)
        if found[2] is not None:
            self.loss.append(float(found[2]))
            self.accuracy.append(float(found[3]))


class Watch:
    """The processes that carry a mark, looked at again and again from a thread."""

    def __init__(self, mark: str, interval: float) -> None:
        self._interval = interval
        self._mark = f"{MARK}={mark}".encode()
        self._strangers: set[Process] = set()
        self._cpu: dict[Process, float] = {}
        self._looking = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.peak_pss = self.most = self._peak_rss = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def cpu(self) -> float:
        """Seconds, of those that are there and those that have gone."""
        return sum(self._cpu.values())

    def end(self, grace: float) -> int:
        """Wait for those that are still there, then end them; returns how many had to be."""
        until = time.monotonic() + grace
        while (found := self._find()) and time.monotonic() < until:
            time.sleep(0.1)
        for pid, _ in found:
            kill(pid)
        return len(found)

    def _look_on(self) -> None:
        while not self._over.wait(self._interval):
            found = self._find()
            self.most = max(self.most, len(found))
            resident = sum(rss(pid) for pid, _ in found)
            if resident > GROWN * self._peak_rss:
                self._peak_rss = resident
                self.peak_pss = max(self.peak_pss, sum(pss(pid) for pid, _ in found))

    def _find(self) -> list[Process]:
        """Those that are there now. Notes what each has burnt."""
        with self._looking:
            stats = [stat for entry in Path("/proc").glob("[0-9]*") if (stat := read_stat(entry))]
            for stat in stats:
                if self._is_ours(stat):
                    self._cpu[stat.process] = stat.burnt
                else:
                    self._strangers.add(stat.process)
            return [stat.process for stat in stats if stat.process in self._cpu]

    def _is_ours(self, stat: "Stat") -> bool:
        if stat.process in self._cpu or stat.process in self._strangers:
            return stat.process in self._cpu
        return any(pid == stat.parent for pid, _ in self._cpu) or self._mark in environment_of(stat.process[0])


class Deadline:
    """Ends whatever is watched when time is up."""

    def __init__(self, seconds: float, watch: Watch) -> None:
        self._timer = threading.Timer(seconds, watch.end, args=(0.0,))

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


class Stat(NamedTuple):
    process: Process
    parent: int
    burnt: float  # seconds of CPU


def read_stat(entry: Path) -> Stat | None:
    """What `/proc/ID` says of a process; None for a zombie, or where it has gone."""
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
    """Bytes: what a process shares counts in full."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def pss(pid: int) -> int:
    """Bytes: what a process shares with n - 1 others counts one n-th."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def busy_seconds() -> float:
    """Of all cores together, since the machine started."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / TICKS
