"""Progress of `fedray sweep`: counts, best trial, running trials and time left, for up to hundreds of trials."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedray.cli.progress import LiveDisplay
from fedray.cli.tables import duration
from fedray.config.search import Search
from fedray.study.tune.display import SweepDisplay, SweepSize
from fedray.types import Row

STATUS_INTERVAL_S = 30
"""Time between two status lines where stdout is not a terminal."""


@dataclass
class TrialProgress:
    """Progress of a running trial."""

    label: str
    rounds: int
    first_round: int  # rounds that earlier sweeps finished
    started_at: float = field(default_factory=time.monotonic)
    last_row: Row = field(default_factory=dict)
    activity: str = "starting"  # work before the next round; empty during rounds

    @property
    def round(self) -> int:
        """Number of the last reported round, 0 before the first."""
        return int(self.last_row.get("round", 0))


class SweepProgress(LiveDisplay, SweepDisplay):
    """A table that is rewritten on a terminal; else one line per ended trial and one status line every 30 s."""

    def __init__(
        self,
        name: str,
        search: Search,
        size: SweepSize,
        *,
        quiet: bool = False,
        out: IO[str] | None = None,
    ) -> None:
        """`out` is where lines are printed, stdout by default."""
        self._name, self._search = name, search
        self._total, self._rounds_left = size.total, size.rounds
        self._counts = Counter(finished=size.finished)
        self._running: dict[str, TrialProgress] = {}
        self._best: tuple[float, str] | None = None
        self._started_at = self._printed_at = time.monotonic()
        self._rounds_done = 0  # by this sweep
        self._console = Console(file=out, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
        self._live = Live(
            get_renderable=self.render, console=self._console, refresh_per_second=2, redirect_stdout=False
        )

    def known(self, label: str, metrics: Row) -> None:
        """Compare a trial that an earlier sweep finished with the best one."""
        self._update_best(label, metrics)

    def start(self, name: str, label: str, rounds: int, first_round: int) -> None:
        """Add a running trial, which starts or resumes after `first_round` rounds."""
        self._running[name] = TrialProgress(label, rounds, first_round)

    def note(self, name: str, activity: str) -> None:
        """Show the work of a trial before its next round."""
        if name in self._running:
            self._running[name].activity = activity

    def round(self, name: str, row: Row) -> None:
        """Record the row of a finished round."""
        trial = self._running[name]
        trial.last_row, trial.activity = row, ""
        if trial.round > trial.first_round:
            self._rounds_done += 1
            self._rounds_left -= 1

    def retry(self, name: str, reason: str) -> None:
        """Print that a trial failed and will be retried."""
        self._print_numbered(f"{self._running.pop(name).label}: failed, will be retried: {reason}")

    def end(self, name: str, state: str, reason: str = "") -> None:
        """Remove a running trial in its final `state`: finished, stopped or failed."""
        trial = self._running.pop(name, None)
        self._counts[state] += 1
        if trial is None:
            return
        self._rounds_left -= trial.rounds - max(trial.round, trial.first_round)
        value = trial.last_row.get(self._search.metric, float("nan"))
        if state != "failed":
            self._update_best(trial.label, trial.last_row)
        summary = f"{self._metric(value)} after {trial.round} rounds, {duration(time.monotonic() - trial.started_at)}"
        lines = {"finished": summary, "stopped": f"stopped by {reason}, {summary}", "failed": f"failed: {reason}"}
        self._print_numbered(f"{trial.label}: {lines[state]}")

    def tick(self) -> None:
        """Print a status line if the last line is older than STATUS_INTERVAL_S. Call it often."""
        if not self._console.is_terminal and time.monotonic() - self._printed_at > STATUS_INTERVAL_S:
            self._print(f"{self.headline()}{self._first_trials()}")

    def headline(self) -> str:
        """Return the study's progress in one line."""
        ended = sum(self._counts.values())
        counts = [f"{self._counts[state]} {state}" for state in ("stopped", "failed") if self._counts[state]]
        best = [f"best {self._metric(self._best[0])} ({self._best[1]})"] if self._best else []
        running = [f"{len(self._running)} running"] if self._running else []
        return ", ".join([f"{self._name}: {ended} of {self._total} trials", *counts, *running, *best, *self._eta()])

    def render(self) -> Table:
        """Return the headline and the running trials, at most as many as the terminal has lines for."""
        headline = Text(self.headline())
        max_trials = max(3, self._console.height - 3 - len(headline.wrap(self._console, self._console.width)))
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "right", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        for trial in list(self._running.values())[:max_trials]:
            table.add_row(f"  {trial.label}", f"{trial.round}/{trial.rounds}", *self._cells(trial))
        if len(self._running) > max_trials:
            table.add_row(f"  and {len(self._running) - max_trials} more")
        whole = Table.grid()
        whole.add_row(headline)
        whole.add_row(table)
        return whole

    def _cells(self, trial: TrialProgress) -> tuple[str, str]:
        if trial.activity:
            return trial.activity, ""
        value = trial.last_row.get(self._search.metric, float("nan"))
        return self._metric(value), f"{trial.last_row['seconds']:.2f} s/round"

    def _first_trials(self) -> str:
        """Return the rounds of the first four running trials."""
        trials = list(self._running.values())[:4]
        return "".join(f"; {t.label} {t.round}/{t.rounds}{t.activity and f' ({t.activity})'}" for t in trials)

    def _eta(self) -> list[str]:
        if self._rounds_done < 2 or self._rounds_left <= 0:
            return []
        return [f"{duration(self._rounds_left * (time.monotonic() - self._started_at) / self._rounds_done)} left"]

    def _metric(self, value: float) -> str:
        if value != value:  # NaN
            return f"no {self._search.metric}"
        shown = f"{value:.4f}" if self._search.metric == "test_loss" else f"{value:.1%}"
        return f"{self._search.metric.replace('_', ' ')} {shown}"

    def _update_best(self, label: str, metrics: Row) -> None:
        value, sign = metrics.get(self._search.metric, float("nan")), 1 if self._search.direction == "max" else -1
        if value == value and (self._best is None or sign * value > sign * self._best[0]):  # not NaN
            self._best = (value, label)

    def _print_numbered(self, line: str) -> None:
        self._print(f"[{sum(self._counts.values())}/{self._total}] {line}")

    def _print(self, line: str) -> None:
        self._printed_at = time.monotonic()
        self._console.print(line)
