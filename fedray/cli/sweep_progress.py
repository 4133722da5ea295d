"""What `fedray sweep` shows: counts, the best, what runs, how long it takes; readable with hundreds of trials."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedray.cli.progress import duration
from fedray.config.search import Search

Row = Mapping[str, Any]
HEARTBEAT = 30
"""Seconds between two lines that say how far it is, where no terminal shows it live."""


@dataclass
class TrialProgress:
    """A trial that runs now."""

    label: str
    rounds: int
    known: int  # rounds that it had from earlier
    since: float = field(default_factory=time.monotonic)
    last: Row = field(default_factory=dict)
    doing: str = "starting"  # before its next round

    @property
    def round(self) -> int:
        return int(self.last.get("round", 0))


class SweepProgress:
    """A table that is rewritten on a terminal; elsewhere a line per ended trial, and one now and then."""

    def __init__(
        self,
        name: str,
        search: Search,
        *,
        total: int,
        finished: int,
        rounds: int,
        quiet: bool = False,
        out: IO[str] | None = None,
    ) -> None:
        """`total` trials, of which `finished` are done; `rounds` are left of all. `out` is stdout by default."""
        self._name, self._search = name, search
        self._total, self._left = total, rounds
        self._counts = Counter(finished=finished)
        self._running: dict[str, TrialProgress] = {}
        self._best: tuple[float, str] | None = None
        self._begun, self._shown = time.monotonic(), time.monotonic()
        self._done = 0  # rounds of this sweep
        self._console = Console(file=out, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
        self._live = Live(
            get_renderable=self.render, console=self._console, refresh_per_second=2, redirect_stdout=False
        )

    def __enter__(self) -> "SweepProgress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def known(self, label: str, figures: Row) -> None:
        """A trial that an earlier sweep has finished."""
        self._compare(label, figures)

    def start(self, name: str, label: str, rounds: int, known: int) -> None:
        """A trial begins, or goes on after `known` rounds."""
        self._running[name] = TrialProgress(label, rounds, known)

    def note(self, name: str, doing: str) -> None:
        """What a trial does before its next round."""
        if name in self._running:
            self._running[name].doing = doing

    def round(self, name: str, row: Row) -> None:
        """A trial reports a round."""
        trial = self._running[name]
        trial.last, trial.doing = row, ""
        if trial.round > trial.known:
            self._done += 1
            self._left -= 1

    def again(self, name: str, reason: str) -> None:
        """A trial has failed, and is tried again."""
        self._say(f"{self._running.pop(name).label}: failed, and is tried again: {reason}")

    def end(self, name: str, state: str, reason: str = "") -> None:
        """A trial ends: finished, stopped or failed."""
        trial = self._running.pop(name, None)
        self._counts[state] += 1
        if trial is None:
            return
        self._left -= trial.rounds - max(trial.round, trial.known)
        value = trial.last.get(self._search.metric, float("nan"))
        if state != "failed":
            self._compare(trial.label, trial.last)
        after = f"{self._figure(value)} after {trial.round} rounds, {duration(time.monotonic() - trial.since)}"
        how = {"finished": after, "stopped": f"stopped by {reason}, {after}", "failed": f"failed: {reason}"}[state]
        self._say(f"{trial.label}: {how}")

    def tick(self) -> None:
        """Time passes."""
        if not self._console.is_terminal and time.monotonic() - self._shown > HEARTBEAT:
            self._print(f"{self.headline()}{self._where()}")

    def headline(self) -> str:
        """How far the study is, in one line."""
        ended = sum(self._counts.values())
        counts = [f"{self._counts[state]} {state}" for state in ("stopped", "failed") if self._counts[state]]
        best = [f"best {self._figure(self._best[0])} ({self._best[1]})"] if self._best else []
        running = [f"{len(self._running)} running"] if self._running else []
        return ", ".join([f"{self._name}: {ended} of {self._total} trials", *counts, *running, *best, *self._eta()])

    def render(self) -> Table:
        """The headline, and the trials that run, as many as there is room for."""
        headline = Text(self.headline())
        room = max(3, self._console.height - 3 - len(headline.wrap(self._console, self._console.width)))
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "right", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        for trial in list(self._running.values())[:room]:
            table.add_row(f"  {trial.label}", f"{trial.round}/{trial.rounds}", *self._figures(trial))
        if len(self._running) > room:
            table.add_row(f"  and {len(self._running) - room} more")
        whole = Table.grid()
        whole.add_row(headline)
        whole.add_row(table)
        return whole

    def _figures(self, trial: TrialProgress) -> tuple[str, str]:
        if trial.doing:
            return trial.doing, ""
        return self._figure(trial.last.get(self._search.metric, float("nan"))), f"{trial.last['seconds']:.2f} s/round"

    def _where(self) -> str:
        """Of the trials that run, how far each of the first few is."""
        trials = list(self._running.values())[:4]
        first = [f"{each.label} {each.round}/{each.rounds}{each.doing and f' ({each.doing})'}" for each in trials]
        return f"; {'; '.join(first)}" if first else ""

    def _eta(self) -> list[str]:
        if self._done < 2 or self._left <= 0:
            return []
        return [f"{duration(self._left * (time.monotonic() - self._begun) / self._done)} left"]

    def _figure(self, value: float) -> str:
        if value != value:  # NaN is not itself
            return f"no {self._search.metric}"
        shown = f"{value:.4f}" if self._search.metric == "test_loss" else f"{value:.1%}"
        return f"{self._search.metric.replace('_', ' ')} {shown}"

    def _compare(self, label: str, figures: Row) -> None:
        value, sign = figures.get(self._search.metric, float("nan")), 1 if self._search.direction == "max" else -1
        if value == value and (self._best is None or sign * value > sign * self._best[0]):  # NaN is not itself
            self._best = (value, label)

    def _say(self, line: str) -> None:
        self._print(f"[{sum(self._counts.values())}/{self._total}] {line}")

    def _print(self, line: str) -> None:
        self._shown = time.monotonic()
        self._console.print(line)
