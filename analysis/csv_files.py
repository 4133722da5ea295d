"""Reading csv files that a crash, an editor or a full disk may have damaged."""

import codecs
import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import csv as pa_csv

KEYS = ("round", "client", "class", "predicted_class")
"""Columns of whole numbers; they are never empty."""
LARGEST = 2**53
"""Up to here, every whole number is a float."""
AMOUNTS = ("seconds", "bytes", "teacher_", "failed_clients", "examples")
LARGEST_AMOUNT = 1e30
"""No cost comes near it: infinity is none."""

Cells: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Columns:
    """What is wanted of a file. Numbers named `accuracy` must be shares from 0 to 1, and amounts not negative."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...] = ()
    once: bool = False  # whether every round has one row

    @property
    def names(self) -> tuple[str, ...]:
        return *self.numbers, *self.texts


def read(path: Path, columns: Columns, problems: list[str]) -> pd.DataFrame | None:
    """These columns of a file: keys as int64, other numbers as float64, NaN where a cell is empty.

    A row that is not what it should be is left out, and a column that is missing is NaN, or no text; `problems` is
    told, with file and line. None where nothing of the file can be used.
    """
    content = _content(path, problems)
    return None if content is None else _parse(path, content, lambda: 1, columns, problems)


def read_last_round(
    path: Path, columns: Columns, problems: list[str], until: float = math.inf, chunk: int = 1 << 14
) -> pd.DataFrame | None:
    """As `read`, but only the rows of the last round up to `until`, however long the file is."""
    try:
        with path.open("rb") as file:
            header = file.readline()
            start, end = file.tell(), file.seek(0, io.SEEK_END)
            while True:
                begin = max(start, end - chunk)
                file.seek(begin)
                tail = file.read(end - begin)
                if begin > start:
                    tail = tail.partition(b"\n")[2]
                told: list[str] = []
                frame = _parse(path, header + tail, _lines_before(path, end - len(tail)), columns, told)
                if frame is None:
                    break
                rounds = frame["round"].to_numpy()
                whole = rounds[rounds <= until]
                if begin == start or (whole != whole.max(initial=0)).any():
                    break
                chunk *= 4
    except OSError as error:
        problems.append(f"'{path}' cannot be read ({error.strerror}).")
        return None
    problems += told
    return None if frame is None else frame[rounds == whole.max(initial=-1)]


def _content(path: Path, problems: list[str]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        problems.append(f"'{path}' cannot be read ({error.strerror}).")
        return None


def _parse(
    path: Path, content: bytes, before: Callable[[], int], columns: Columns, problems: list[str]
) -> pd.DataFrame | None:
    """`before` counts the file's lines before the first row of `content`."""
    header = _header(content)
    missing = [column for column in columns.names if column not in header]
    if missing:
        problems.append(f"'{path}' has no column {', '.join(missing)}." if any(header) else f"'{path}' is empty.")
    wanted = [column for column in columns.names if column in header]
    if not wanted:
        return None
    regular = len({*header}) == len(header) and content.count(b'"') % 2 == 0
    cells = _parse_whole(content, wanted, columns) if regular else None
    if cells is None or not _is_sound(cells, columns):
        rows = list(_sound_rows(path, content, before(), _cells(header, wanted, columns), problems))
        cells = {name: np.array([row[place] for row in rows]) for place, name in enumerate(wanted)}
    nothing = {name: np.full(len(cells[wanted[0]]), "" if name in columns.texts else math.nan) for name in missing}
    return pd.DataFrame({name: _typed(name, (cells | nothing)[name], columns) for name in columns.names})


def _typed(name: str, cells: Cells, columns: Columns) -> Cells:
    if name in columns.texts:
        return cells.astype(object)
    return cells.astype(np.int64 if name in KEYS and not np.isnan(cells).any() else np.float64)


def _parse_whole(content: bytes, wanted: Sequence[str], columns: Columns) -> dict[str, Cells] | None:
    """By column. None unless every row is what it should be."""
    types = {column: pa.string() if column in columns.texts else pa.float64() for column in wanted}
    options = pa_csv.ConvertOptions(include_columns=list(wanted), column_types=types, strings_can_be_null=False)
    reading, parsing = pa_csv.ReadOptions(use_threads=False), pa_csv.ParseOptions(newlines_in_values=True)
    try:
        parsed = pa_csv.read_csv(io.BytesIO(content), reading, parsing, options)
    except pa.ArrowInvalid:
        return None
    return {column: parsed[column].to_numpy() for column in wanted}


def _is_sound(cells: Mapping[str, Cells], columns: Columns) -> bool:
    keys = [cells[key] for key in KEYS if key in cells]
    if not all(((key == np.floor(key)) & (key >= 0) & (key < LARGEST)).all() for key in keys):
        return False
    if "round" in cells and (np.diff(cells["round"], prepend=0) < columns.once).any():
        return False
    limited = [(cells[name], _limit(name)) for name in columns.numbers if name in cells]
    return not any(((cell < 0) | (cell > limit)).any() for cell, limit in limited if limit is not None)


def _cells(header: list[str], wanted: Sequence[str], columns: Columns) -> Callable[[list[str]], Sequence[object]]:
    """What takes the wanted cells of one row after the other. Raises ValueError for what is wrong with a row."""
    places = {column: header.index(column) for column in wanted}
    last = 0

    def cells(row: list[str]) -> list[object]:
        nonlocal last
        found = {c: row[at] if c in columns.texts else _number(c, row[at]) for c, at in places.items()}
        now = int(found.get("round", last))
        if now < last + columns.once and "round" in found:
            raise ValueError(f"round {now} comes after round {last}" if last else f"round is {now}, and the first is 1")
        last = now
        return list(found.values())

    return cells


def _number(column: str, cell: str) -> float:
    if not cell and column not in KEYS:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{column} is '{cell}', which is not a number") from None
    limit = _limit(column)
    if limit is not None and (value < 0 or value > limit):
        what = "a share from 0 to 1" if limit == 1 else "an amount from 0"
        raise ValueError(f"{column} is {cell}, which is not {what}")
    return _whole(column, value) if column in KEYS else value


def _whole(column: str, value: float) -> int:
    if not (value % 1 == 0 and 0 <= value < LARGEST):
        raise ValueError(f"{column} is {value:g}, which is not a whole number from 0")
    return int(value)


def _limit(column: str) -> float | None:
    """What a number may be at most, where it may not be less than 0."""
    if column.endswith("accuracy"):
        return 1.0
    return LARGEST_AMOUNT if column.startswith(AMOUNTS) else None


def _header(content: bytes) -> list[str]:
    try:
        return next(csv.reader([_text(content.partition(b"\n")[0])]), [])
    except csv.Error:
        return []


def _text(content: bytes) -> str:
    return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").replace("\0", "?")


def _sound_rows(
    path: Path, content: bytes, before: int, cells: Callable[[list[str]], Sequence[object]], problems: list[str]
) -> Iterator[Sequence[object]]:
    """What `cells` makes of each row; of those that it does not take, `problems` is told."""
    width, lines = len(_header(content)), _text(content).split("\n")[1:]
    for place, row in _rows(lines, width):
        try:
            if len(row) != width:
                raise ValueError(f"it has {len(row)} cells, not {width}")
            yield cells(row)
        except ValueError as error:
            problems.append(f"'{path}', line {before + place + 1}: {error}; the row is left out.")


def _rows(lines: Sequence[str], width: int) -> Iterator[tuple[int, list[str]]]:
    """Each row and the place of its first line. A quote that nobody closes costs its own line only."""
    start = 0
    while start < len(lines):
        reader = csv.reader((f"{lines[place]}\n" for place in range(start, len(lines))), strict=True)
        try:
            row, taken = next(reader), reader.line_num
        except csv.Error:
            row, taken = [], 0
        if taken != 1 and len(row) != width:
            row, taken = lines[start].split(","), 1
        if row:
            yield start, row
        start += taken


def _lines_before(path: Path, end: int) -> Callable[[], int]:
    """What counts the lines in the first bytes of a file."""

    def count() -> int:
        with path.open("rb") as file:
            blocks = iter(lambda: file.read(min(1 << 20, end - file.tell())), b"")
            return sum(block.count(b"\n") for block in blocks)

    return count
