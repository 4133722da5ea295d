"""The teacher cache on disk: written rows are read back, damaged rows are not, and writers may run in parallel."""

import json
import multiprocessing
import os
import platform
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedray.errors import SpecError
from fedray.teachers.cache import CacheEntry, TeacherCache

ROWS, WIDTH = 50, 7
CONTENT: dict[str, Any] = {"teacher": {"kind": "test", "epochs": 3}, "images": "abc", "output_kind": "logits"}
PRODUCED_BY = {"teacher": "test", "data": "nothing"}
OUTPUTS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
ALL = np.arange(ROWS)


@pytest.fixture
def entry() -> CacheEntry:
    return TeacherCache().entry(CONTENT, ROWS)


@pytest.fixture
def full(entry: CacheEntry) -> CacheEntry:
    entry.write(ALL, OUTPUTS, PRODUCED_BY)
    return entry


def file(entry: CacheEntry) -> Path:
    return entry.folder / "rows.bin"


def row_bytes(dtype: str = "<f4", width: int = WIDTH) -> int:
    """Return the bytes of a row on disk: a checksum of four bytes, and the outputs."""
    return 4 + width * np.dtype(dtype).itemsize


def valid_rows(entry: CacheEntry) -> list[int]:
    return np.flatnonzero(entry.read(ALL)[1]).tolist()


def assert_missing_rows_can_be_written(entry: CacheEntry) -> None:
    missing = ALL[~entry.read(ALL)[1]]
    entry.write(missing, OUTPUTS[missing], PRODUCED_BY)
    outputs, valid = entry.read(ALL)
    assert outputs is not None
    assert valid.all()
    np.testing.assert_array_equal(outputs, OUTPUTS)
    assert entry.count_valid() == ROWS


class TestRoundtrip:
    def test_an_entry_that_was_never_written_is_empty(self, entry: CacheEntry) -> None:
        outputs, valid = entry.read(ALL)
        assert outputs is None
        assert valid.tolist() == [False] * ROWS
        assert entry.count_valid() == entry.count_written() == 0
        assert TeacherCache().entries() == []

    def test_scattered_rows_are_read_in_the_requested_order(self, entry: CacheEntry) -> None:
        scattered = np.array([3, 4, 5, 41, 0, 49, 20])
        entry.write(scattered, OUTPUTS[scattered], PRODUCED_BY)
        rows = np.array([20, 1, 5, 5, 49, 2, 0])
        outputs, valid = entry.read(rows)
        assert outputs is not None
        assert outputs.dtype == np.float32
        assert valid.tolist() == [True, False, True, True, True, False, True]
        np.testing.assert_array_equal(outputs[valid], OUTPUTS[rows[valid]])
        assert valid_rows(entry) == sorted(scattered)
        assert entry.count_valid() == entry.count_written() == 7

    def test_rows_may_be_written_in_descending_order(self, entry: CacheEntry) -> None:
        entry.write(ALL[::-1], OUTPUTS[::-1], PRODUCED_BY)
        np.testing.assert_array_equal(entry.read(ALL)[0], OUTPUTS)

    def test_writes_add_up(self, entry: CacheEntry) -> None:
        for start in range(0, ROWS, 8):
            entry.write(ALL[start : start + 8], OUTPUTS[start : start + 8], PRODUCED_BY)
        np.testing.assert_array_equal(entry.read(ALL)[0], OUTPUTS)
        assert entry.count_valid() == ROWS

    def test_reading_no_rows(self, full: CacheEntry) -> None:
        assert full.read(np.array([], dtype=np.int64))[1].tolist() == []

    def test_float16_is_stored_unchanged(self) -> None:
        entry = TeacherCache().entry(CONTENT, ROWS, "float16")
        halves = OUTPUTS.astype(np.float16)
        entry.write(ALL, halves, PRODUCED_BY)
        outputs, valid = entry.read(ALL)
        assert outputs is not None
        assert outputs.dtype == np.float16
        assert valid.all()
        np.testing.assert_array_equal(outputs, halves)
        assert file(entry).stat().st_size == ROWS * row_bytes("<f2")

    def test_rows_on_disk_have_the_documented_format(self, full: CacheEntry) -> None:
        """A second reader, byte by byte: CRC-32 of row number and outputs, then the outputs."""
        for row, stored in enumerate(
            file(full).read_bytes()[i * row_bytes() : (i + 1) * row_bytes()] for i in range(ROWS)
        ):
            outputs = struct.pack(f"<{WIDTH}f", *OUTPUTS[row])
            assert stored == struct.pack("<I", zlib.crc32(struct.pack("<q", row) + outputs)) + outputs
        metadata = json.loads((full.folder / "entry.json").read_text())
        assert metadata == {
            "content": CONTENT,
            "rows": ROWS,
            "dtype": "float32",
            "width": WIDTH,
            "produced_by": PRODUCED_BY,
        }

    def test_the_first_producer_is_recorded(self, full: CacheEntry) -> None:
        full.write(ALL[:2], OUTPUTS[:2], {"teacher": "another"})
        assert full.produced_by == PRODUCED_BY

    def test_rows_that_were_never_written_take_no_space(self) -> None:
        entry = TeacherCache().entry(CONTENT, 1_000_000)
        entry.write(np.array([999_999]), OUTPUTS[:1], PRODUCED_BY)
        assert file(entry).stat().st_size == 1_000_000 * row_bytes()
        assert entry.bytes < 100_000


class TestKey:
    def test_the_order_of_fields_has_no_effect(self, full: CacheEntry) -> None:
        reordered = {key: CONTENT[key] for key in reversed(CONTENT)}
        reordered["teacher"] = {"epochs": 3, "kind": "test"}
        assert TeacherCache().entry(reordered, ROWS).key == full.key
        assert TeacherCache().entry(reordered, ROWS).read(ALL)[1].all()

    def test_other_content_rows_or_dtype_is_another_entry(self, full: CacheEntry) -> None:
        others = [
            TeacherCache().entry({**CONTENT, "images": "abd"}, ROWS),
            TeacherCache().entry({**CONTENT, "more": None}, ROWS),
            TeacherCache().entry(CONTENT, ROWS + 1),
            TeacherCache().entry(CONTENT, ROWS, "float16"),
        ]
        assert len({full.key, *(other.key for other in others)}) == 5
        assert not any(other.read(ALL)[1].any() for other in others)

    def test_the_environment_sets_the_folder(
        self, full: CacheEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "other"))
        assert TeacherCache().entries() == []
        monkeypatch.delenv("FEDRAY_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert TeacherCache().folder == tmp_path / "cache" / "fedray" / "teacher_outputs"
        assert TeacherCache(full.folder.parent.parent).entry(CONTENT, ROWS).read(ALL)[1].all()

    def test_a_cache_of_an_earlier_layout_is_ignored(self, tmp_path: Path) -> None:
        (tmp_path / "teachers" / "abc").mkdir(parents=True)
        (tmp_path / "teachers" / "abc" / "entry.json").write_text(json.dumps({"content": CONTENT, "made_by": {}}))
        assert TeacherCache(tmp_path).entries() == []
        assert TeacherCache(tmp_path).unreadable() == []


class TestDamage:
    @pytest.mark.parametrize("byte", [0, 3, 4, 31], ids=["checksum", "end of checksum", "outputs", "end of outputs"])
    def test_a_flipped_byte(self, full: CacheEntry, byte: int) -> None:
        content = bytearray(file(full).read_bytes())
        content[17 * row_bytes() + byte] ^= 0x10
        file(full).write_bytes(content)
        assert valid_rows(full) == [row for row in range(ROWS) if row != 17]
        assert full.count_valid() == ROWS - 1
        assert_missing_rows_can_be_written(full)

    @pytest.mark.parametrize("row", [0, 17])
    def test_a_zeroed_row(self, full: CacheEntry, row: int) -> None:
        content = bytearray(file(full).read_bytes())
        content[row * row_bytes() : (row + 1) * row_bytes()] = bytes(row_bytes())
        file(full).write_bytes(content)
        assert valid_rows(full) == [other for other in range(ROWS) if other != row]
        assert full.count_written() == ROWS - 1
        assert_missing_rows_can_be_written(full)

    def test_a_row_copied_over_another(self, full: CacheEntry) -> None:
        content = bytearray(file(full).read_bytes())
        content[5 * row_bytes() : 6 * row_bytes()] = content[30 * row_bytes() : 31 * row_bytes()]
        file(full).write_bytes(content)
        assert valid_rows(full) == [row for row in range(ROWS) if row != 5]
        assert_missing_rows_can_be_written(full)

    def test_a_partly_written_row(self, entry: CacheEntry, full: CacheEntry) -> None:
        whole = file(full).read_bytes()[9 * row_bytes() : 10 * row_bytes()]
        full.remove()
        entry.write(ALL[:5], OUTPUTS[:5], PRODUCED_BY)
        with file(entry).open("r+b") as stream:
            stream.seek(9 * row_bytes())
            stream.write(whole[: row_bytes() // 2])
        assert valid_rows(entry) == [0, 1, 2, 3, 4]
        assert (entry.count_written(), entry.count_valid()) == (6, 5)
        assert_missing_rows_can_be_written(entry)

    @pytest.mark.parametrize("size", [0, 100, ROWS * 32 - 1])
    def test_truncated_rows(self, full: CacheEntry, size: int) -> None:
        assert row_bytes() == 32
        with file(full).open("r+b") as rows:
            rows.truncate(size)
        assert valid_rows(full) == []
        assert full.count_valid() == full.count_written() == 0
        assert_missing_rows_can_be_written(full)

    def test_missing_rows(self, full: CacheEntry) -> None:
        file(full).unlink()
        assert valid_rows(full) == []
        assert_missing_rows_can_be_written(full)

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[1]", "null", "{}", "\0\0\0", '{"content": 1, "rows": 1, "dtype": "float32", "width": 1}'],
    )
    def test_a_garbage_entry(self, full: CacheEntry, text: str) -> None:
        (full.folder / "entry.json").write_text(text)
        assert valid_rows(full) == []
        assert_missing_rows_can_be_written(full)
        assert full.produced_by == PRODUCED_BY

    @pytest.mark.parametrize("width", [None, "7", -1, 0, 6, 8, 7.5, [7], 10**12])
    def test_an_entry_with_another_width(self, full: CacheEntry, width: Any) -> None:
        """Neither another width nor an invalid one may be used to cut the file into rows."""
        metadata = json.loads((full.folder / "entry.json").read_text())
        (full.folder / "entry.json").write_text(json.dumps({**metadata, "width": width}))
        assert valid_rows(full) == []
        TeacherCache().entries()
        assert_missing_rows_can_be_written(full)

    def test_an_entry_that_is_not_utf8(self, full: CacheEntry) -> None:
        (full.folder / "entry.json").write_bytes(b"\xff\xfe\x00")
        assert valid_rows(full) == []
        assert TeacherCache().entries() == []
        assert_missing_rows_can_be_written(full)

    def test_a_missing_entry(self, full: CacheEntry) -> None:
        (full.folder / "entry.json").unlink()
        assert valid_rows(full) == []
        assert TeacherCache().entries() == []
        assert full.produced_by == {}
        assert_missing_rows_can_be_written(full)

    def test_an_entry_with_other_content(self, full: CacheEntry) -> None:
        other = {**json.loads((full.folder / "entry.json").read_text()), "content": {"images": "other"}}
        (full.folder / "entry.json").write_text(json.dumps(other))
        assert valid_rows(full) == []
        assert_missing_rows_can_be_written(full)


class TestFind:
    def test_by_the_start_of_its_key(self, full: CacheEntry) -> None:
        entry = TeacherCache().find(full.key[:6])
        assert entry.folder == full.folder
        assert entry.rows == ROWS
        assert entry.count_valid() == ROWS

    def test_an_unknown_key(self, full: CacheEntry) -> None:
        with pytest.raises(SpecError, match=re.escape(f"there is no entry 'zzz' in {full.folder.parent}.")):
            TeacherCache().find("zzz")

    def test_a_misspelt_key_gets_a_suggestion(self, full: CacheEntry) -> None:
        misspelt = full.key[:-1] + "z"
        with pytest.raises(SpecError, match=re.escape(f"did you mean '{full.key}'?")):
            TeacherCache().find(misspelt)

    def test_a_start_shared_by_several_keys(self) -> None:
        teacher_cache = TeacherCache()
        entries = [
            teacher_cache.entry({"number": number}, 1) for number in range(17)
        ]  # 17 keys have at most 16 different first digits
        for entry in entries:
            entry.write(np.array([0]), OUTPUTS[:1], PRODUCED_BY)
        digits = [entry.key[0] for entry in entries]
        shared = next(digit for digit in digits if digits.count(digit) > 1)
        with pytest.raises(SpecError, match=f"^several entries start with '{shared}' in "):
            teacher_cache.find(shared)

    def test_the_most_recently_used_entry_is_first(self) -> None:
        teacher_cache = TeacherCache()
        entries = [teacher_cache.entry({"number": number}, 1) for number in range(3)]
        for entry in entries:
            entry.write(np.array([0]), OUTPUTS[:1], PRODUCED_BY)
            os.utime(entry.folder / "entry.json", (1000, 1000))
        entries[0].read(np.array([0]))
        assert entries[0].last_used == pytest.approx(time.time(), abs=60)
        assert teacher_cache.entries()[0].key == entries[0].key

    def test_counting_rows_is_not_a_use(self, full: CacheEntry) -> None:
        os.utime(full.folder / "entry.json", (1000, 1000))
        assert (full.count_valid(), full.count_written()) == (ROWS, ROWS)
        assert full.last_used == 1000

    def test_a_removed_entry_can_be_written_again(self, full: CacheEntry) -> None:
        full.remove()
        assert not full.folder.exists()
        assert TeacherCache().entries() == []
        assert valid_rows(full) == []
        assert_missing_rows_can_be_written(full)


def test_a_folder_that_cannot_be_created_is_a_spec_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    entry = TeacherCache(tmp_path / "file" / "cache").entry(CONTENT, ROWS)
    message = "cannot be created .*Not a directory.*; set FEDRAY_CACHE to a writable folder"
    with pytest.raises(SpecError, match=message):
        entry.lock()
    with pytest.raises(SpecError, match=message):
        entry.write(ALL, OUTPUTS, PRODUCED_BY)
    assert entry.read(ALL)[0] is None
    with pytest.raises(SpecError, match=message):
        TeacherCache(tmp_path / "file" / "cache").entries()


def test_rows_that_cannot_be_written_are_a_spec_error(entry: CacheEntry) -> None:
    file(entry).mkdir(parents=True)
    with pytest.raises(SpecError, match=re.escape(f"the teacher cache {entry.folder.parent} cannot be written (Is a")):
        entry.write(ALL, OUTPUTS, PRODUCED_BY)


def _write(index: int, barrier: Any) -> None:
    """Write half of the rows, a third of the rest, each time in another order."""
    entry = TeacherCache().entry(CONTENT, ROWS)
    rng = np.random.default_rng(index)
    own_rows = [row for row in ALL if row % 2 or row // 2 % 3 == index]
    barrier.wait(60)
    for _ in range(20):
        for rows in np.array_split(rng.permutation(own_rows), 5):
            with entry.lock():
                entry.write(rows, OUTPUTS[rows], PRODUCED_BY | {"index": index})
            outputs, valid = entry.read(rows)
            assert outputs is not None
            assert valid.all()
            assert np.array_equal(outputs, OUTPUTS[rows])


def test_parallel_writers_leave_a_complete_entry(entry: CacheEntry) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    processes = [spawn.Process(target=_write, args=(index, barrier)) for index in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    outputs, valid = entry.read(ALL)
    assert valid.all()
    np.testing.assert_array_equal(outputs, OUTPUTS)
    assert entry.count_valid() == ROWS
    assert {path.name for path in entry.folder.iterdir()} == {"entry.json", "rows.bin"}


def test_partial_files_of_ended_processes_are_removed() -> None:
    """A killed process leaves its partial metadata; a living one keeps its own."""
    host = platform.node().replace(".", "_")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    cache = TeacherCache()
    entry = cache.entry({"teacher": "a"}, 4)
    entry.write(np.arange(4), np.ones((4, 2), np.float32), {})
    left, living = (entry.folder / f"entry.json.{host}-{process}.partial" for process in (ended.pid, os.getpid()))
    left.touch()
    living.touch()
    assert [found.key for found in cache.entries()] == [entry.key]
    assert not left.exists()
    assert living.exists()
