"""What `fedray run` shows: one live line per running experiment, and a table at the end."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedray.types import Event, Progress, RoundResult, TeacherProgress, Waiting

if TYPE_CHECKING:
    import pandas as pd

    from fedray.config.loader import Run
    from fedray.server.teacher_check import TeacherAccuracy
    from fedray.teachers.cache import TeacherCache


HEADERS = {
    "test_accuracy": "accuracy",
    "last_k_accuracy": "last k",
    "worst_class_accuracy": "worst class",
    "rare_class_accuracy": "rare classes",
    "round_seconds": "s/round",
}
NUMBERS = (
    "accuracy",
    "last k",
    "k",
    "worst class",
    "rare classes",
    "images",
    "published",
    "rows",
    "kB",
    "client",
    "round",
    "loss",
    "trials",
)


class RunProgress:
    """A line that is rewritten on a terminal; elsewhere one line per round."""

    def __init__(self, label: str, *, quiet: bool) -> None:
        self._label = label
        self._console = Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True)
        self._live = Live(Text(f"{label}: starting ..."), console=self._console, refresh_per_second=4)
        self._times: list[float] = []
        self._shown, self._asked_since = float("-inf"), 0.0
        self._asked_first = 0
        self._accuracy = ""

    def __enter__(self) -> "RunProgress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def end(self) -> None:
        """Say so where there was nothing to do."""
        if not self._times:
            self._show(f"{self._label}: finished before, kept as it is")

    def update(self, event: Event) -> None:
        """Show one more finished round, or what it waits for."""
        if isinstance(event, TeacherProgress):
            self._show_asking(event)
            return
        if isinstance(event, Waiting):
            self._show(f"{self._label}: {progress_line(event)}")
            return
        self._times.append(time.monotonic())
        self._show(self._line(event))

    def _show_asking(self, event: TeacherProgress) -> None:
        """On a terminal each step; elsewhere every ten seconds, and the last."""
        now = time.monotonic()
        if event.done and not self._asked_since:
            self._asked_since, self._asked_first = now, event.done
        line = f"{self._label}: {self._asking_line(event, now)}"
        finished = event.done == event.total and not event.waiting
        if self._console.is_terminal or finished or now - self._shown > (60 if event.waiting else 10):
            self._show(line)
        if finished:
            self._asked_since = 0.0

    def _asking_line(self, event: TeacherProgress, now: float) -> str:
        line = progress_line(event)
        if event.waiting:
            return line
        if event.done == event.total or now == self._asked_since:
            return line
        speed = (event.done - self._asked_first) / (now - self._asked_since)
        return f"{line}, {speed:,.0f} a second, {duration((event.total - event.done) / speed)} left"

    def _show(self, line: str) -> None:
        self._shown = time.monotonic()
        if self._console.is_terminal:
            self._live.update(Text(line))
        else:
            self._console.print(line)

    def _line(self, result: RoundResult) -> str:
        if "test_accuracy" in result.row:
            self._accuracy = f", accuracy {result.row['test_accuracy']:.1%}"
        seconds = self._seconds_per_round(result.row["seconds"])
        retried = f", trained again: {result.row['retried']}" if result.row.get("retried") else ""
        line = f"{self._label}: round {result.round}/{result.rounds}{self._accuracy}, {seconds:.2f} s/round{retried}"
        if len(self._times) == 1 and result.round < result.rounds:
            return line  # the first round also waits for processes to start: no basis for a forecast
        return f"{line}, {duration((result.rounds - result.round) * seconds)} left"

    def _seconds_per_round(self, first: float) -> float:
        """Over the last ten rounds, from the end of one to the end of another."""
        recent = self._times[-11:]
        return first if len(recent) < 2 else (recent[-1] - recent[0]) / (len(recent) - 1)


def progress_line(event: Progress) -> str:
    """`teacher: 300 of 10,000 answers`."""
    if isinstance(event, Waiting):
        return event.text
    if event.waiting:
        return "waiting for another run that is asking the same teacher"
    return f"teacher: {event.done:,} of {event.total:,} {event.what}"


def print_summary(folder: str, runs: Sequence["Run"]) -> None:
    """A row per run of the folder: the last round's figures, and the difference to the first run."""
    from analysis.summary import faults, summary, teacher_work
    from fedray.results.loader import load_results

    results = load_results(folder)
    names = [str(Path(run.name).relative_to(Path(run.name).parts[0])) for run in runs]
    console = open_console()
    console.print(_framed(summary(results, names)))
    if work := teacher_work(results, names):
        console.print(work)
    if survived := faults(results, names):
        console.print(f"{survived}, see faults.csv")
    console.print(f"tables: {folder}", soft_wrap=True)


def print_over_seeds(folder: str | Path) -> None:
    """A row per setting: mean ± standard deviation over its seeds."""
    from analysis.summary import METRICS, over_seeds
    from fedray.results.loader import load_results

    results = load_results(folder)
    frame = over_seeds(results)
    for name in METRICS:
        frame[name] = [_mean(mean, std) for mean, std in zip(frame[name], frame.pop(f"{name}_std"), strict=True)]
    console = open_console()
    console.print(_framed(frame))
    for problem in results.problems:
        console.print(problem)
    if results.unfinished:
        console.print(
            f"{len(results.unfinished)} of {len(results.folders)} runs have not come to their last round: "
            "stopped, failed, or not done yet; figures are of the rounds there are."
        )


def _mean(mean: float, deviation: float) -> str:
    spread = "" if deviation != deviation else f" ± {100 * deviation:.1f}"  # NaN is not itself: one seed
    return f"{100 * mean:.1f}{spread}" if mean == mean else "-"


def print_entries(teacher_cache: "TeacherCache") -> None:
    """A row per entry of the bank."""
    table = empty_table("key", "teacher", "client", "data", "answers", "views", "rows", "kB", "last used")
    entries = teacher_cache.entries()
    heads = [entry for entry in entries if entry.facts["content"]["output_kind"] == "head"]
    for entry in entries:
        content, made = entry.facts["content"], entry.made_by
        if content["output_kind"] == "head":  # one for each client that probes: too many to list
            continue
        table.add_row(
            entry.key, made["teacher"], str(content["teacher"].get("client", "all")), made["data"],
            content["output_kind"], content["views"], f"{entry.written():,}/{entry.rows:,}",
            f"{entry.bytes / 1e3:,.0f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used)),
        )  # fmt: skip
    console = open_console()
    console.print(table if entries else "the bank is empty")
    if heads:
        console.print(f"and {len(heads)} heads of linear probes, {sum(head.bytes for head in heads) / 1e6:.1f} MB")
    for folder in teacher_cache.unreadable():
        console.print(f"unreadable, and computed again when it is asked: {folder}", soft_wrap=True)
    console.print(f"bank: {teacher_cache.folder}", soft_wrap=True)


def print_checked(found: Sequence["TeacherAccuracy"]) -> None:
    """A row per teacher: its accuracy, and the published one where it is known."""
    table = empty_table("teacher", "data", "images", "accuracy", "published")
    for one in found:
        known = "-" if one.published is None else f"{one.published:.2f}%"
        table.add_row(one.teacher, one.data, f"{one.images:,}", f"{one.accuracy:.2%}", known)
    open_console().print(table)


def _framed(frame: "pd.DataFrame") -> Table:
    headers = HEADERS
    if frame["k"].nunique() == 1:
        headers = HEADERS | {"last_k_accuracy": f"last {frame['k'].iloc[0]}"}
        frame = frame.drop(columns="k")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in frame.columns:
        is_text = frame[column].map(lambda value: isinstance(value, str)).any() and not column.endswith("accuracy")
        table.add_column(headers.get(column, column), justify="left" if is_text else "right", no_wrap=True)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(column, value) for column, value in zip(frame.columns, row, strict=True)))
    return table


def empty_table(*columns: str) -> Table:
    """Only its head; figures stand right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=column != "trial")
    return table


def open_console() -> Console:
    """For tables: as wide as they are where no terminal bounds them."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)


def percent(value: float) -> str:
    """`89.6%`, or `-` where it is not known."""
    return f"{value:.1%}" if value == value else "-"  # NaN is not itself


def _cell(column: str, value: object) -> str:
    if value is None or value != value:  # NaN is not itself
        return "-"
    if column == "difference":
        return f"{100 * float(str(value)):+.1f}"
    if isinstance(value, float):
        return f"{value:.1%}" if column.endswith("accuracy") else f"{value:g}"
    return str(value)


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 04 s` or `5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
