"""Reading csv files that a crash, an editor or a full disk may have damaged."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as pa_csv

Numbers = Sequence[str]


def read(
    path: Path, numbers: Numbers, texts: Sequence[str], problems: list[str], shares: Sequence[str] = ()
) -> pd.DataFrame | None:
    """These columns of a file: `numbers` as float64 (`round` as int64), NaN where a cell is empty.

    A row that is not what it should be is left out, and a column that is missing is NaN; `problems` is told, with
    file and line. `shares` must lie between 0 and 1. None where the file cannot be read at all.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        problems.append(f"'{path}' cannot be read ({error.strerror}).")
        return None
    return _parse(path, content, lambda: 1, numbers, texts, problems, shares)


def read_last_round(
    path: Path, numbers: Numbers, texts: Sequence[str], problems: list[str], chunk: int = 1 << 16
) -> pd.DataFrame | None:
    """As `read`, but only the rows of the last round, however long the file is."""
    try:
        with path.open("rb") as file:
            header = file.readline()
            start, size = file.tell(), path.stat().st_size
            begin = size
            tail = b""
            while begin > start and not _holds_last_round(tail):
                begin = max(start, begin - chunk)
                file.seek(begin)
                tail = file.read(size - begin)
                if begin > start:
                    tail = tail.partition(b"\n")[2]
                chunk *= 4
    except OSError as error:
        problems.append(f"'{path}' cannot be read ({error.strerror}).")
        return None
    kept = _of_last_round(tail)
    return _parse(path, header + kept, lambda: _lines_before(path, len(kept)), numbers, texts, problems)


def read_counts(path: Path, problems: list[str]) -> pd.DataFrame | None:
    """partition.csv, which has a column per class, as a row per client and class that it holds."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        clients = np.array([int(row[0]) for row in rows], dtype=np.int64)
        counts = np.array([[int(cell) for cell in row[2:]] for row in rows], dtype=np.int64)
        counts = counts.reshape(len(rows), len(header) - 2)
    except (OSError, ValueError, IndexError) as error:
        problems.append(f"'{path}' cannot be read ({error}).")
        return None
    client, label = np.nonzero(counts)
    names = np.array(header[2:])
    return pd.DataFrame(
        {"client": clients[client], "class": label, "name": names[label], "examples": counts[client, label]}
    )


def _parse(
    path: Path, content: bytes, before: Callable[[], int], numbers: Numbers, texts: Sequence[str], problems: list[str],
    shares: Sequence[str] = (),
) -> pd.DataFrame | None:  # fmt: skip
    header = content.partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r").split(",")
    wanted = [column for column in (*numbers, *texts) if column in header]
    if missing := [column for column in (*numbers, *texts) if column not in header]:
        problems.append(f"'{path}' has no column {', '.join(missing)}.")
    if not wanted:
        return None
    frame = _parse_whole(content, wanted, texts)
    if frame is None or not _is_sound(frame, shares):
        rows = list(_sound_rows(path, content, before(), wanted, texts, problems, shares))
        frame = pd.DataFrame(rows, columns=wanted).astype({c: float for c in wanted if c not in texts})
    if "round" in frame:
        frame = frame.astype({"round": np.int64})
    return frame.reindex(columns=[*numbers, *texts])


def _parse_whole(content: bytes, wanted: Sequence[str], texts: Sequence[str]) -> pd.DataFrame | None:
    """None unless every row is what it should be."""
    types = {column: pa.string() if column in texts else pa.float64() for column in wanted}
    options = pa_csv.ConvertOptions(include_columns=list(wanted), column_types=types, strings_can_be_null=False)
    try:
        parsed = pa_csv.read_csv(io.BytesIO(content), pa_csv.ReadOptions(use_threads=False), convert_options=options)
    except pa.ArrowInvalid:
        return None
    frame: pd.DataFrame = parsed.to_pandas()
    return frame


def _is_sound(frame: pd.DataFrame, shares: Sequence[str]) -> bool:
    if "round" in frame and (frame["round"].isna().any() or (frame["round"].diff() < 0).any()):
        return False
    return not any(((frame[share] < 0) | (frame[share] > 1)).any() for share in shares if share in frame)


def _sound_rows(
    path: Path, content: bytes, before: int, wanted: Sequence[str], texts: Sequence[str], problems: list[str],
    shares: Sequence[str],
) -> Iterator[list[object]]:  # fmt: skip
    """The rows that can be used; of the others `problems` is told."""
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8", "replace").replace("\0", "?")))
    places = {column: header.index(column) for column in wanted}
    last = 0.0
    for line, row in enumerate(rows, start=before + 1):
        try:
            if len(row) != len(header):
                raise ValueError(f"it has {len(row)} cells, not {len(header)}")
            cells = {c: row[place] if c in texts else _number(c, row[place], shares) for c, place in places.items()}
            number = cells.get("round", last)
            if not isinstance(number, float) or not number >= last:
                raise ValueError(f"round {row[places['round']] or 'nothing'} comes after round {last:g}")
            last = number
            yield list(cells.values())
        except ValueError as error:
            problems.append(f"'{path}', line {line}: {error}; the row is left out.")


def _number(column: str, cell: str, shares: Sequence[str]) -> float:
    if not cell:
        return float("nan")
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{column} is '{cell}', which is not a number") from None
    if column in shares and not (0 <= value <= 1 or value != value):
        raise ValueError(f"{column} is {cell}, which is not a share from 0 to 1")
    return value


def _holds_last_round(tail: bytes) -> bool:
    """Whether the rows of the last round begin within it."""
    lines = tail.splitlines()
    return bool(lines) and lines[0].partition(b",")[0] != lines[-1].partition(b",")[0]


def _of_last_round(tail: bytes) -> bytes:
    lines = tail.splitlines(keepends=True)
    last = lines[-1].partition(b",")[0] if lines else b""
    first = len(lines)
    while first and lines[first - 1].partition(b",")[0] == last:
        first -= 1
    return b"".join(lines[first:])


def _lines_before(path: Path, kept: int) -> int:
    """How many lines of a file come before its last `kept` bytes."""
    with path.open("rb") as file:
        left = path.stat().st_size - kept
        count = 0
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            count += block.count(b"\n")
            left -= len(block)
    return count
