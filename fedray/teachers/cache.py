"""The teacher bank: answers that were computed once, on disk, found again by what they depend on.

    $FEDRAY_CACHE/teachers/KEY/entry.json   what KEY is the hash of, and the width of a row
    $FEDRAY_CACHE/teachers/KEY/rows.bin     a record per row: CRC-32 of (row, values), then the values
    $FEDRAY_CACHE/teachers/KEY.lock         held by whoever computes; the others wait

Rows are filled in any order. A row whose check fails, whether it was never written, half written or
damaged since, is unknown and will be computed again. The same row always gets the same values, so
a write that is repeated or lost does no harm.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from fedray.cache import cache_folder
from fedray.errors import SpecError, nearest
from fedray.types import Indices, Row

Values = npt.NDArray[np.floating[Any]]


class TeacherCache:
    """A folder of entries. Any number of processes may use it at once."""

    def __init__(self, cache: Path | None = None) -> None:
        self.folder = (cache or cache_folder()) / "teachers"

    def entry(self, content: Row, rows: int, dtype: str = "float32") -> "CacheEntry":
        """The entry for answers that depend on `content` alone: JSON, without order."""
        facts = {"content": content, "rows": rows, "dtype": dtype}
        text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        return CacheEntry(self.folder / hashlib.sha256(text.encode()).hexdigest()[:20], facts)

    def entries(self) -> list["CacheEntry"]:
        """All that can be read, the one used last first. Raises SpecError where the bank cannot be a folder."""
        if not self.folder.is_dir():
            _make(self.folder)
        found = [CacheEntry(path.parent, facts) for path in self.folder.glob("*/entry.json") if (facts := _read(path))]
        return sorted(found, key=lambda entry: -entry.last_used)

    def unreadable(self) -> list[Path]:
        """Folders of entries whose account is damaged: what they held will be computed again."""
        return [folder for folder in sorted(self.folder.glob("*/")) if _read(folder / "entry.json") is None]

    def find(self, key: str) -> "CacheEntry":
        """The entry whose key begins so. Raises SpecError where none does, or several."""
        keys = {entry.key: entry for entry in self.entries()}
        matching = [found for found in keys if found.startswith(key)]
        if len(matching) != 1:
            problem = "several entries begin with" if matching else "there is no entry"
            raise SpecError(f"{problem} '{key}' in {self.folder}{nearest(key, keys)}")
        return keys[matching[0]]


@dataclass(frozen=True)
class CacheEntry:
    """What one teacher says: a row of `width` numbers for each image, or each image and view."""

    folder: Path
    facts: Row

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def rows(self) -> int:
        return int(self.facts["rows"])

    @property
    def made_by(self) -> Row:
        """What computed its first rows."""
        made_by: Row = (_read(self.folder / "entry.json") or {}).get("made_by", {})
        return made_by

    @property
    def last_used(self) -> float:
        """Seconds since 1970."""
        return (self.folder / "entry.json").stat().st_mtime

    @property
    def bytes(self) -> int:
        """What it takes on disk; rows that were never written take nothing."""
        found = [file.stat() for file in self.folder.iterdir()]
        return sum(stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size for stat in found)  # Windows

    @cached_property
    def lock(self) -> FileLock:
        """Held while rows are computed, so that nobody else computes the same."""
        _make(self.folder.parent)
        return FileLock(self.folder.with_suffix(".lock"))

    def read(self, rows: Indices) -> tuple[Values | None, npt.NDArray[np.bool_]]:
        """[k, width] and, for each of the k rows, whether it is known. None where nothing is."""
        with suppress(OSError):  # a bank that may only be read serves as well
            os.utime(self.folder / "entry.json")
        return self.look(rows)

    def look(self, rows: Indices) -> tuple[Values | None, npt.NDArray[np.bool_]]:
        """As `read`, without it counting as a use."""
        record = self._record()
        if record is None or not len(rows):
            return None, np.zeros(len(rows), dtype=bool)
        found = np.memmap(self.folder / "rows.bin", record, mode="r", shape=(self.rows,))[rows]
        return found["values"], found["check"] == _checks(rows, found["values"])

    def written(self) -> int:
        """How many rows have been written, whole or not: quicker to tell."""
        record = self._record()
        if record is None:
            return 0
        return int(np.count_nonzero(np.memmap(self.folder / "rows.bin", record, mode="r")["check"]))

    def known(self) -> int:
        """How many rows are there and whole."""
        return sum(
            int(self.look(np.arange(i, min(i + 10_000, self.rows)))[1].sum()) for i in range(0, self.rows, 10_000)
        )

    def write(self, rows: Indices, values: Values, made_by: Row) -> None:
        """Store [k, width] for k rows. Raises SpecError where the disk does not take them."""
        record = self._record()
        try:
            if record is None or record["values"].shape != (values.shape[1],):
                record = self._begin(values.shape[1], made_by)
            records = np.empty(len(rows), record)
            records["values"] = values
            records["check"] = _checks(rows, records["values"])
            with (self.folder / "rows.bin").open("r+b") as file:
                for start, stop in _runs(rows):
                    file.seek(int(rows[start]) * record.itemsize)
                    file.write(records[start:stop].tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SpecError(f"the teacher bank {self.folder.parent} cannot be written ({error.strerror}).") from error

    def remove(self) -> None:
        """Delete it, once nobody is computing it."""
        with self.lock:
            shutil.rmtree(self.folder)

    def _record(self) -> np.dtype[Any] | None:
        """What a row looks like on disk; None where there is no file of the right size to map."""
        facts = _read(self.folder / "entry.json")
        if facts is None or facts.get("content") != self.facts["content"]:
            return None
        record = _record_of(self.facts["dtype"], facts["width"])
        file = self.folder / "rows.bin"
        whole = file.exists() and file.stat().st_size == record.itemsize * self.rows
        return record if whole else None

    def _begin(self, width: int, made_by: Row) -> np.dtype[Any]:
        _make(self.folder)
        record = _record_of(self.facts["dtype"], width)
        with (self.folder / "rows.bin").open("wb") as file:
            file.truncate(record.itemsize * self.rows)  # a sparse file: it takes space as rows come
        partial = self.folder / "entry.partial"
        partial.write_text(json.dumps({**self.facts, "width": width, "made_by": made_by}, indent=2, ensure_ascii=False))
        partial.replace(self.folder / "entry.json")
        return record


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"the teacher bank {folder} cannot be made ({error.strerror}); set FEDRAY_CACHE to a folder that can."
        ) from error


def _record_of(dtype: str, width: int) -> np.dtype[Any]:
    return np.dtype([("check", "<u4"), ("values", np.dtype(dtype).newbyteorder("<"), (width,))])


def _checks(rows: Indices, values: Values) -> npt.NDArray[np.uint32]:
    """The row's number goes into its check, so that no row passes for another, nor zeros for a row."""
    text = np.ascontiguousarray(values).view(np.uint8).reshape(len(rows), -1)
    numbers = rows.astype("<i8").view(np.uint8).reshape(len(rows), -1)
    return np.fromiter(map(zlib.crc32, np.hstack([numbers, text])), np.uint32, len(rows))


def _runs(rows: Indices) -> Iterator[Sequence[int]]:
    """Where runs of consecutive rows start and stop."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True)


def _read(file: Path) -> Row | None:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        _record_of(facts["dtype"], facts["width"])
        return facts if {"content", "rows", "made_by"} <= facts.keys() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
