"""The teacher cache: teacher outputs on disk, found by a hash of everything that they depend on.

    $FEDRAY_CACHE/teacher_outputs/KEY/entry.json   the fields that KEY is the hash of, and the width of a row
    $FEDRAY_CACHE/teacher_outputs/KEY/rows.bin     one record per row: CRC-32 of (row, outputs), then the outputs
    $FEDRAY_CACHE/teacher_outputs/KEY.lock         held by the process that computes rows; others wait for it

Rows are written in any order. A row with a wrong checksum counts as missing, whether it was never written,
partly written or damaged later, and is computed again. A row always gets the same outputs, so a repeated or
lost write does no harm.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.cache import cache_folder, make_cache_folder
from fedray.errors import SpecError, nearest
from fedray.files import remove_stale_partials, replacing, this_process
from fedray.locks import CACHE_REMEDY, locked
from fedray.types import Indices, Row

OutputArray: TypeAlias = npt.NDArray[np.floating]
"""[rows, width]: a teacher's logits or features."""

CHUNK_ROWS = 10_000
"""Rows that `count_valid` reads at a time, to bound its memory."""


class TeacherCache:
    """A folder of entries. Any number of processes may use it at the same time."""

    def __init__(self, cache: Path | None = None) -> None:
        self.folder = (cache or cache_folder()) / "teacher_outputs"

    def entry(self, content: Row, rows: int, dtype: str = "float32") -> "CacheEntry":
        """Return the entry for outputs that depend on `content` alone (JSON; the order of keys has no effect)."""
        metadata = {"content": content, "rows": rows, "dtype": dtype}
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
        return CacheEntry(self.folder / hashlib.sha256(text.encode()).hexdigest()[:20], metadata)

    def entries(self) -> list["CacheEntry"]:
        """Return all readable entries, most recently used first. Raises SpecError if the folder cannot be created."""
        if not self.folder.is_dir():
            make_cache_folder(self.folder)
        remove_stale_partials(self.folder)
        files = self.folder.glob("*/entry.json")
        entries = [CacheEntry(file.parent, metadata) for file in files if (metadata := _read_metadata(file))]
        return sorted(entries, key=lambda entry: -entry.last_used)

    def unreadable(self) -> list[Path]:
        """Return the folders of entries with a damaged `entry.json`: their outputs will be computed again."""
        return [folder for folder in sorted(self.folder.glob("*/")) if _read_metadata(folder / "entry.json") is None]

    def find(self, prefix: str) -> "CacheEntry":
        """Return the entry whose key starts with `prefix`. Raises SpecError unless there is exactly one."""
        entries = {entry.key: entry for entry in self.entries()}
        keys = [key for key in entries if key.startswith(prefix)]
        if len(keys) != 1:
            problem = "several entries start with" if keys else "there is no entry"
            raise SpecError(f"{problem} '{prefix}' in {self.folder}{nearest(prefix, entries)}")
        return entries[keys[0]]


@dataclass(frozen=True)
class CacheEntry:
    """Outputs of one teacher: a row of `width` numbers per image, or per image and view."""

    folder: Path
    metadata: Row

    @property
    def key(self) -> str:
        """The hash that names the entry's folder."""
        return self.folder.name

    @property
    def rows(self) -> int:
        """Number of rows that the entry has space for."""
        return int(self.metadata["rows"])

    @property
    def width(self) -> int | None:
        """Numbers per row; None where nothing was written."""
        record = self._stored_record()
        return None if record is None else int(record["outputs"].shape[0])

    @property
    def produced_by(self) -> Row:
        """The teacher, data, device and package versions that produced its first rows."""
        produced_by: Row = (_read_metadata(self.folder / "entry.json") or {}).get("produced_by", {})
        return produced_by

    @property
    def last_used(self) -> float:
        """Seconds since 1970."""
        return (self.folder / "entry.json").stat().st_mtime

    @property
    def bytes(self) -> int:
        """Size on disk; rows that were never written take no space."""
        stats = [file.stat() for file in self.folder.iterdir()]
        return sum(stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size for stat in stats)  # Windows

    def lock(self, timeout_s: float = -1) -> AbstractContextManager[None]:
        """Return the lock under which rows are computed, so that no other process computes the same rows.

        A negative timeout waits without end. Entering it raises filelock.Timeout if another process holds it.
        """
        make_cache_folder(self.folder.parent)
        return locked(self.folder.with_suffix(".lock"), timeout_s, CACHE_REMEDY)

    def read(self, rows: Indices) -> tuple[OutputArray | None, npt.NDArray[np.bool_]]:
        """Return the outputs of k rows, [k, width], and whether each is valid. None where nothing was written.

        Reading updates `last_used`.
        """
        with suppress(OSError):  # a read-only cache works as well
            os.utime(self.folder / "entry.json")
        return self.peek(rows)

    def peek(self, rows: Indices) -> tuple[OutputArray | None, npt.NDArray[np.bool_]]:
        """Read without updating `last_used`."""
        record = self._stored_record()
        if record is None or not len(rows):
            return None, np.zeros(len(rows), dtype=bool)
        records = np.memmap(self.folder / "rows.bin", record, mode="r", shape=(self.rows,))[rows]
        return records["outputs"], records["checksum"] == _checksums(rows, records["outputs"])

    def missing(self, rows: Indices) -> Indices:
        """Return those of the rows that are not valid, sorted, each once."""
        rows = np.unique(rows)
        return rows[~self.read(rows)[1]]

    def count_written(self) -> int:
        """Return how many rows were written, valid or not. Faster than `count_valid`."""
        record = self._stored_record()
        if record is None:
            return 0
        return int(np.count_nonzero(np.memmap(self.folder / "rows.bin", record, mode="r")["checksum"]))

    def count_valid(self) -> int:
        """Return how many rows have a correct checksum."""
        chunks = (np.arange(i, min(i + CHUNK_ROWS, self.rows)) for i in range(0, self.rows, CHUNK_ROWS))
        return sum(int(self.peek(chunk)[1].sum()) for chunk in chunks)

    def write(self, rows: Indices, outputs: OutputArray, produced_by: Row) -> None:
        """Store the outputs of k rows, [k, width]. Raises SpecError where the disk cannot be written."""
        record = self._stored_record()
        try:
            if record is None or record["outputs"].shape != (outputs.shape[1],):
                record = self._create_files(outputs.shape[1], produced_by)
            records = np.empty(len(rows), record)
            records["outputs"] = outputs
            records["checksum"] = _checksums(rows, records["outputs"])
            with (self.folder / "rows.bin").open("r+b") as file:
                for start, stop in _consecutive_runs(rows):
                    file.seek(int(rows[start]) * record.itemsize)
                    file.write(records[start:stop].tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SpecError(f"the teacher cache {self.folder.parent} cannot be written ({error.strerror}).") from error

    def remove(self) -> None:
        """Delete the entry, once no process computes its rows."""
        with self.lock():
            shutil.rmtree(self.folder)

    def _stored_record(self) -> np.dtype[np.void] | None:
        """The dtype of a row on disk; None where `rows.bin` is missing or has the wrong size."""
        metadata = _read_metadata(self.folder / "entry.json")
        if metadata is None or metadata.get("content") != self.metadata["content"]:
            return None
        record = _record_dtype(self.metadata["dtype"], metadata["width"])
        file = self.folder / "rows.bin"
        is_complete = file.exists() and file.stat().st_size == record.itemsize * self.rows
        return record if is_complete else None

    def _create_files(self, width: int, produced_by: Row) -> np.dtype[np.void]:
        make_cache_folder(self.folder)
        record = _record_dtype(self.metadata["dtype"], width)
        with (self.folder / "rows.bin").open("wb") as file:
            file.truncate(record.itemsize * self.rows)  # a sparse file: it grows on disk as rows are written
        metadata = {**self.metadata, "width": width, "produced_by": produced_by}
        remove_stale_partials(self.folder)
        with replacing(self.folder / "entry.json", this_process()) as partial:
            partial.write_text(json.dumps(metadata, indent=2, ensure_ascii=False), encoding="utf-8")
        return record


def _record_dtype(dtype: str, width: int) -> np.dtype[np.void]:
    return np.dtype([("checksum", "<u4"), ("outputs", np.dtype(dtype).newbyteorder("<"), (width,))])


def _checksums(rows: Indices, outputs: OutputArray) -> npt.NDArray[np.uint32]:
    """CRC-32 of row number and outputs: neither another row nor a row of zeros passes for a valid one."""
    data = np.ascontiguousarray(outputs).view(np.uint8).reshape(len(rows), -1)
    numbers = rows.astype("<i8").view(np.uint8).reshape(len(rows), -1)
    return np.fromiter(map(zlib.crc32, np.hstack([numbers, data])), np.uint32, len(rows))


def _consecutive_runs(rows: Indices) -> Iterator[Sequence[int]]:
    """Yield (start, stop) of each run of consecutive row numbers."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True)


def _read_metadata(file: Path) -> Row | None:
    """The JSON of an entry; None where it is missing, damaged or lacks a field."""
    try:
        metadata: Row = json.loads(file.read_text(encoding="utf-8"))
        _record_dtype(metadata["dtype"], metadata["width"])
        return metadata if {"content", "rows", "produced_by"} <= metadata.keys() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
