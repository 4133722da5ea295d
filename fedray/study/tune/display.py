"""The live display of a sweep, as the sweep drives it. The command line has one; a script may pass its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fedray.config.search import Search
from fedray.types import Row


@dataclass(frozen=True)
class SweepSize:
    """Counts that a display starts from."""

    total: int  # trials of the study
    finished: int  # of them, finished or stopped before this sweep
    rounds: int  # to run in all


class SweepDisplay:
    """Shows nothing. A display overrides these methods; `name` is a trial's folder, `label` its axis values."""

    def known(self, label: str, metrics: Row) -> None:
        """Add a trial that an earlier sweep finished."""

    def start(self, name: str, label: str, rounds: int, first_round: int) -> None:
        """Add a trial that starts, after `first_round` of its `rounds` rounds."""

    def note(self, name: str, activity: str) -> None:
        """Show the activity of a trial before its next round."""

    def round(self, name: str, row: Row) -> None:
        """Show a finished round, by its row of rounds.csv."""

    def retry(self, name: str, reason: str) -> None:
        """Show that a trial failed and will be retried."""

    def end(self, name: str, state: str, reason: str = "") -> None:
        """Show the final state of a trial."""

    def tick(self) -> None:
        """Refresh the display. Called ten times a second."""

    def __enter__(self) -> "SweepDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        return None


MakeDisplay: TypeAlias = Callable[[str, Search, SweepSize], SweepDisplay]
"""(study name, search section, size) -> the display of a sweep."""
