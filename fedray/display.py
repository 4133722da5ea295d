"""What `fedray run` shows: one live line per running experiment, and a table at the end."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedray.types import RoundResult

if TYPE_CHECKING:
    from fedray.spec_file import Run


class Progress:
    """A line that is rewritten on a terminal; elsewhere one line per round."""

    def __init__(self, label: str, *, quiet: bool) -> None:
        self._label = label
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._live = Live(Text(f"{label}: starting ..."), console=self._console, refresh_per_second=4)
        self._times: list[float] = []
        self._accuracy = ""

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()
        if kind is None and not self._times:
            self._console.print(f"{self._label}: finished before, kept as it is")

    def update(self, result: RoundResult) -> None:
        """Show one more finished round."""
        self._times.append(time.monotonic())
        line = self._line(result)
        if self._console.is_terminal:
            self._live.update(Text(line))
        else:
            self._console.print(line)

    def _line(self, result: RoundResult) -> str:
        if "accuracy" in result.row:
            self._accuracy = f", accuracy {result.row['accuracy']:.1%}"
        seconds = self._seconds_per_round(result.row["seconds"])
        line = f"{self._label}: round {result.round}/{result.rounds}{self._accuracy}, {seconds:.2f} s/round"
        if len(self._times) == 1 and result.round < result.rounds:
            return line  # the first round also waits for processes to start: no basis for a forecast
        return f"{line}, {_duration((result.rounds - result.round) * seconds)} left"

    def _seconds_per_round(self, first: float) -> float:
        """Over the last ten rounds, from the end of one to the end of another."""
        recent = self._times[-11:]
        return first if len(recent) < 2 else (recent[-1] - recent[0]) / (len(recent) - 1)


def print_summary(folder: Path, runs: Sequence["Run"]) -> None:
    """A row per run of the folder: the last round's figures, and the difference to the first run."""
    from analysis.tables import summary
    from fedray.results import load_results

    table = Table(box=None, header_style="bold", pad_edge=False)
    frame = summary(load_results(folder), [str(Path(run.name).relative_to(folder.name)) for run in runs])
    for column in frame.columns:
        is_text = frame[column].map(lambda value: isinstance(value, str)).any()
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(column, value) for column, value in zip(frame.columns, row, strict=True)))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(f"tables: {folder}", soft_wrap=True)


def _cell(column: str, value: object) -> str:
    if value is None or value != value:  # NaN is not itself
        return "-"
    if column == "difference":
        return f"{100 * float(str(value)):+.1f}"
    if isinstance(value, float):
        return f"{value:.1%}" if column in ("accuracy", "last ten", "worst class", "rare classes") else f"{value:g}"
    return str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
