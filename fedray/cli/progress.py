"""Progress of `fedray run`: one live line per running experiment."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fedray.cli.tables import duration
from fedray.types import Event, Notice, RoundResult, TeacherProgress, Waiting


class LiveDisplay:
    """A display that is rewritten while it is entered, if stdout is a terminal."""

    _console: Console
    _live: Live

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()


class RunProgress(LiveDisplay):
    """Prints a run's progress: a line that is rewritten on a terminal, else one line per round."""

    def __init__(self, label: str, *, quiet: bool) -> None:
        self._label = label
        self._console = Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True)
        self._live = Live(Text(f"{label}: starting ..."), console=self._console, refresh_per_second=4)
        self._round_ends: list[float] = []
        self._shown_at = float("-inf")
        self._teacher_start: tuple[float, int] | None = None  # time and count of the first outputs of a query
        self._accuracy = ""
        self._warned: set[str] = set()

    def end(self) -> None:
        """Print one line if the run had no round left to do."""
        if not self._round_ends:
            self._show(f"{self._label}: already finished, skipped")

    def update(self, event: Event) -> None:
        """Show a finished round, or the event that the run waits for."""
        if isinstance(event, Notice):
            self._warn(event.text)
        elif isinstance(event, TeacherProgress):
            self._show_teacher(event)
        elif isinstance(event, Waiting):
            self._show(f"{self._label}: {event}")
        else:
            self._round_ends.append(time.monotonic())
            self._show(self._round_line(event))
            for warning in event.warnings:
                self._warn(warning)

    def _warn(self, warning: str) -> None:
        """Print a warning to stderr, once."""
        if warning not in self._warned:
            self._warned.add(warning)
            print(f"fedray: warning: {warning}", file=sys.stderr)

    def _show_teacher(self, event: TeacherProgress) -> None:
        """Show each event on a terminal, else one every 10 s (60 s while waiting for another run) and the last."""
        now = time.monotonic()
        if event.done and self._teacher_start is None:
            self._teacher_start = now, event.done
        line = f"{self._label}: {self._teacher_line(event, now)}"
        is_last = event.done == event.total and not event.waiting
        if self._console.is_terminal or is_last or now - self._shown_at > (60 if event.waiting else 10):
            self._show(line)
        if is_last:
            self._teacher_start = None

    def _teacher_line(self, event: TeacherProgress, now: float) -> str:
        """Return the line with the speed and the time left, once they are known."""
        line = str(event)
        if event.waiting or event.done == event.total or self._teacher_start is None:
            return line
        started, first = self._teacher_start
        if now == started or event.done == first:
            return line
        speed = (event.done - first) / (now - started)
        return f"{line}, {speed:,.0f} per second, {duration((event.total - event.done) / speed)} left"

    def _show(self, line: str) -> None:
        self._shown_at = time.monotonic()
        if self._console.is_terminal:
            self._live.update(Text(line))
        else:
            self._console.print(line)

    def _round_line(self, result: RoundResult) -> str:
        if "test_accuracy" in result.row:
            self._accuracy = f", accuracy {result.row['test_accuracy']:.1%}"
        seconds = self._seconds_per_round(result.row["seconds"])
        retried = f", retried: {result.row['retried']}" if result.row.get("retried") else ""
        line = f"{self._label}: round {result.round}/{result.rounds}{self._accuracy}, {seconds:.2f} s/round{retried}"
        if len(self._round_ends) == 1 and result.round < result.rounds:
            return line  # the first round includes the start of processes, so it gives no forecast
        return f"{line}, {duration((result.rounds - result.round) * seconds)} left"

    def _seconds_per_round(self, first: float) -> float:
        """Return the mean time between the ends of the last eleven rounds; `first` after a single round."""
        recent = self._round_ends[-11:]
        return first if len(recent) < 2 else (recent[-1] - recent[0]) / (len(recent) - 1)
