"""Parts shared by the printed tables: the console, an empty table, and the formats of cells."""

import sys

from rich.console import Console
from rich.table import Table

NUMBER_COLUMNS = frozenset(
    {"accuracy", "client", "images", "k", "kB", "last k", "loss", "published", "rare classes", "round", "rows"}
    | {"trials", "worst class"}
)
PIPE_WIDTH = 160
"""Columns of a table where stdout is not a terminal."""


def open_console() -> Console:
    """Return a console for tables, as wide as the terminal."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def borderless() -> Table:
    """Return a table without columns and borders."""
    return Table(box=None, header_style="bold", pad_edge=False)


def empty_table(*columns: str) -> Table:
    """Return a table without rows; columns of numbers are right-aligned."""
    table = borderless()
    for column in columns:
        table.add_column(column, justify="right" if column in NUMBER_COLUMNS else "left", no_wrap=column != "trial")
    return table


def percent(value: float) -> str:
    """Return `89.6%` for 0.896 and `-` for NaN."""
    return f"{value:.1%}" if value == value else "-"


def duration(seconds: float) -> str:
    """Return `1 h 02 min`, `3 min 04 s` or `5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
