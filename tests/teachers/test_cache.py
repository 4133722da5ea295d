"""The bank on disk: what is written comes back, what is damaged does not, whoever writes at once."""

import json
import multiprocessing
import os
import re
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedray.errors import SpecError
from fedray.teachers.cache import CacheEntry, TeacherCache

ROWS, WIDTH = 50, 7
CONTENT: dict[str, Any] = {"teacher": {"kind": "made up", "epochs": 3}, "images": "abc", "output_kind": "logits"}
MADE_BY = {"teacher": "made up", "data": "nothing"}
VALUES = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
ALL = np.arange(ROWS)


@pytest.fixture
def entry() -> CacheEntry:
    return TeacherCache().entry(CONTENT, ROWS)


@pytest.fixture
def full(entry: CacheEntry) -> CacheEntry:
    entry.write(ALL, VALUES, MADE_BY)
    return entry


def file(entry: CacheEntry) -> Path:
    return entry.folder / "rows.bin"


def record(dtype: str = "<f4", width: int = WIDTH) -> int:
    """The bytes of a row on disk: a check of four, and its values."""
    return 4 + width * np.dtype(dtype).itemsize


def known(entry: CacheEntry) -> list[int]:
    return np.flatnonzero(entry.read(ALL)[1]).tolist()


def assert_can_be_filled_again(entry: CacheEntry) -> None:
    unknown = ALL[~entry.read(ALL)[1]]
    entry.write(unknown, VALUES[unknown], MADE_BY)
    values, all_known = entry.read(ALL)
    assert values is not None
    assert all_known.all()
    np.testing.assert_array_equal(values, VALUES)
    assert entry.count_valid() == ROWS


class TestRoundtrip:
    def test_nothing_is_known_of_an_entry_that_was_never_written(self, entry: CacheEntry) -> None:
        values, found = entry.read(ALL)
        assert values is None
        assert found.tolist() == [False] * ROWS
        assert entry.count_valid() == entry.count_written() == 0
        assert TeacherCache().entries() == []

    def test_scattered_rows_come_back_in_the_order_of_asking(self, entry: CacheEntry) -> None:
        scattered = np.array([3, 4, 5, 41, 0, 49, 20])
        entry.write(scattered, VALUES[scattered], MADE_BY)
        asked = np.array([20, 1, 5, 5, 49, 2, 0])
        values, found = entry.read(asked)
        assert values is not None
        assert values.dtype == np.float32
        assert found.tolist() == [True, False, True, True, True, False, True]
        np.testing.assert_array_equal(values[found], VALUES[asked[found]])
        assert known(entry) == sorted(scattered)
        assert entry.count_valid() == entry.count_written() == 7

    def test_rows_in_a_falling_order_land_where_they_belong(self, entry: CacheEntry) -> None:
        entry.write(ALL[::-1], VALUES[::-1], MADE_BY)
        np.testing.assert_array_equal(entry.read(ALL)[0], VALUES)

    def test_later_writes_add_to_earlier_ones(self, entry: CacheEntry) -> None:
        for start in range(0, ROWS, 8):
            entry.write(ALL[start : start + 8], VALUES[start : start + 8], MADE_BY)
        np.testing.assert_array_equal(entry.read(ALL)[0], VALUES)
        assert entry.count_valid() == ROWS

    def test_asking_for_no_rows(self, full: CacheEntry) -> None:
        assert full.read(np.array([], dtype=np.int64))[1].tolist() == []

    def test_half_precision_is_stored_as_it_is_given(self) -> None:
        entry = TeacherCache().entry(CONTENT, ROWS, "float16")
        halves = VALUES.astype(np.float16)
        entry.write(ALL, halves, MADE_BY)
        values, found = entry.read(ALL)
        assert values is not None
        assert values.dtype == np.float16
        assert found.all()
        np.testing.assert_array_equal(values, halves)
        assert file(entry).stat().st_size == ROWS * record("<f2")

    def test_rows_on_disk_are_what_the_documentation_says(self, full: CacheEntry) -> None:
        """A second reader, byte by byte: CRC-32 of the row's number and its values, then the values."""
        for row, text in enumerate(file(full).read_bytes()[i * record() : (i + 1) * record()] for i in range(ROWS)):
            values = struct.pack(f"<{WIDTH}f", *VALUES[row])
            assert text == struct.pack("<I", zlib.crc32(struct.pack("<q", row) + values)) + values
        facts = json.loads((full.folder / "entry.json").read_text())
        assert facts == {"content": CONTENT, "rows": ROWS, "dtype": "float32", "width": WIDTH, "produced_by": MADE_BY}

    def test_what_made_the_first_rows_is_kept(self, full: CacheEntry) -> None:
        full.write(ALL[:2], VALUES[:2], {"teacher": "another"})
        assert full.produced_by == MADE_BY

    def test_rows_that_were_never_written_take_no_space(self) -> None:
        entry = TeacherCache().entry(CONTENT, 1_000_000)
        entry.write(np.array([999_999]), VALUES[:1], MADE_BY)
        assert file(entry).stat().st_size == 1_000_000 * record()
        assert entry.bytes < 100_000


class TestAddress:
    def test_the_order_of_keys_plays_no_part(self, full: CacheEntry) -> None:
        turned = {key: CONTENT[key] for key in reversed(CONTENT)}
        turned["teacher"] = {"epochs": 3, "kind": "made up"}
        assert TeacherCache().entry(turned, ROWS).key == full.key
        assert TeacherCache().entry(turned, ROWS).read(ALL)[1].all()

    def test_any_other_content_rows_or_type_is_another_entry(self, full: CacheEntry) -> None:
        others = [
            TeacherCache().entry({**CONTENT, "images": "abd"}, ROWS),
            TeacherCache().entry({**CONTENT, "more": None}, ROWS),
            TeacherCache().entry(CONTENT, ROWS + 1),
            TeacherCache().entry(CONTENT, ROWS, "float16"),
        ]
        assert len({full.key, *(other.key for other in others)}) == 5
        assert not any(other.read(ALL)[1].any() for other in others)

    def test_it_lies_in_the_cache_that_the_environment_names(
        self, full: CacheEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "other"))
        assert TeacherCache().entries() == []
        monkeypatch.delenv("FEDRAY_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert TeacherCache().folder == tmp_path / "cache" / "fedray" / "teacher_outputs"
        assert TeacherCache(full.folder.parent.parent).entry(CONTENT, ROWS).read(ALL)[1].all()


class TestDamage:
    @pytest.mark.parametrize("byte", [0, 3, 4, 31], ids=["check", "check's end", "values", "values' end"])
    def test_a_flipped_byte(self, full: CacheEntry, byte: int) -> None:
        text = bytearray(file(full).read_bytes())
        text[17 * record() + byte] ^= 0x10
        file(full).write_bytes(text)
        assert known(full) == [row for row in range(ROWS) if row != 17]
        assert full.count_valid() == ROWS - 1
        assert_can_be_filled_again(full)

    @pytest.mark.parametrize("row", [0, 17])
    def test_a_zeroed_row(self, full: CacheEntry, row: int) -> None:
        text = bytearray(file(full).read_bytes())
        text[row * record() : (row + 1) * record()] = bytes(record())
        file(full).write_bytes(text)
        assert known(full) == [other for other in range(ROWS) if other != row]
        assert full.count_written() == ROWS - 1
        assert_can_be_filled_again(full)

    def test_a_row_copied_over_another(self, full: CacheEntry) -> None:
        text = bytearray(file(full).read_bytes())
        text[5 * record() : 6 * record()] = text[30 * record() : 31 * record()]
        file(full).write_bytes(text)
        assert known(full) == [row for row in range(ROWS) if row != 5]
        assert_can_be_filled_again(full)

    def test_a_row_of_which_half_was_written(self, entry: CacheEntry, full: CacheEntry) -> None:
        whole = file(full).read_bytes()[9 * record() : 10 * record()]
        full.remove()
        entry.write(ALL[:5], VALUES[:5], MADE_BY)
        with file(entry).open("r+b") as rows:
            rows.seek(9 * record())
            rows.write(whole[: record() // 2])
        assert known(entry) == [0, 1, 2, 3, 4]
        assert (entry.count_written(), entry.count_valid()) == (6, 5)
        assert_can_be_filled_again(entry)

    @pytest.mark.parametrize("left", [0, 100, ROWS * 32 - 1])
    def test_truncated_rows(self, full: CacheEntry, left: int) -> None:
        assert record() == 32
        with file(full).open("r+b") as rows:
            rows.truncate(left)
        assert known(full) == []
        assert full.count_valid() == full.count_written() == 0
        assert_can_be_filled_again(full)

    def test_missing_rows(self, full: CacheEntry) -> None:
        file(full).unlink()
        assert known(full) == []
        assert_can_be_filled_again(full)

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[1]", "null", "{}", "\0\0\0", '{"content": 1, "rows": 1, "dtype": "float32", "width": 1}'],
    )
    def test_a_garbage_entry(self, full: CacheEntry, text: str) -> None:
        (full.folder / "entry.json").write_text(text)
        assert known(full) == []
        assert_can_be_filled_again(full)
        assert full.produced_by == MADE_BY

    @pytest.mark.parametrize("width", [None, "7", -1, 0, 6, 8, 7.5, [7], 10**12])
    def test_an_entry_with_another_width(self, full: CacheEntry, width: Any) -> None:
        """Rows would be cut in the wrong places; what cannot be a width at all is no better."""
        facts = json.loads((full.folder / "entry.json").read_text())
        (full.folder / "entry.json").write_text(json.dumps({**facts, "width": width}))
        assert known(full) == []
        TeacherCache().entries()
        assert_can_be_filled_again(full)

    def test_an_entry_that_is_not_text(self, full: CacheEntry) -> None:
        (full.folder / "entry.json").write_bytes(b"\xff\xfe\x00")
        assert known(full) == []
        assert TeacherCache().entries() == []
        assert_can_be_filled_again(full)

    def test_a_missing_entry(self, full: CacheEntry) -> None:
        (full.folder / "entry.json").unlink()
        assert known(full) == []
        assert TeacherCache().entries() == []
        assert full.produced_by == {}
        assert_can_be_filled_again(full)

    def test_an_entry_that_says_it_is_about_something_else(self, full: CacheEntry) -> None:
        other = {**json.loads((full.folder / "entry.json").read_text()), "content": {"images": "other"}}
        (full.folder / "entry.json").write_text(json.dumps(other))
        assert known(full) == []
        assert_can_be_filled_again(full)


class TestFind:
    def test_by_the_beginning_of_its_key(self, full: CacheEntry) -> None:
        found = TeacherCache().find(full.key[:6])
        assert found.folder == full.folder
        assert found.rows == ROWS
        assert found.count_valid() == ROWS

    def test_no_such_key(self, full: CacheEntry) -> None:
        with pytest.raises(SpecError, match=re.escape(f"there is no entry 'zzz' in {full.folder.parent}.")):
            TeacherCache().find("zzz")

    def test_a_misspelt_key_is_recognised(self, full: CacheEntry) -> None:
        misspelt = full.key[:-1] + "z"
        with pytest.raises(SpecError, match=re.escape(f"did you mean '{full.key}'?")):
            TeacherCache().find(misspelt)

    def test_a_beginning_that_several_share(self) -> None:
        teacher_cache = TeacherCache()
        entries = [
            teacher_cache.entry({"number": number}, 1) for number in range(17)
        ]  # of 16 first digits, one comes twice
        for entry in entries:
            entry.write(np.array([0]), VALUES[:1], MADE_BY)
        firsts = [entry.key[0] for entry in entries]
        twice = next(first for first in firsts if firsts.count(first) > 1)
        with pytest.raises(SpecError, match=f"^several entries start with '{twice}' in "):
            teacher_cache.find(twice)

    def test_the_one_used_last_comes_first(self) -> None:
        teacher_cache = TeacherCache()
        entries = [teacher_cache.entry({"number": number}, 1) for number in range(3)]
        for entry in entries:
            entry.write(np.array([0]), VALUES[:1], MADE_BY)
            os.utime(entry.folder / "entry.json", (1000, 1000))
        entries[0].read(np.array([0]))
        assert entries[0].last_used == pytest.approx(time.time(), abs=60)
        assert teacher_cache.entries()[0].key == entries[0].key

    def test_checking_its_rows_is_no_use_of_it(self, full: CacheEntry) -> None:
        os.utime(full.folder / "entry.json", (1000, 1000))
        assert (full.count_valid(), full.count_written()) == (ROWS, ROWS)
        assert full.last_used == 1000

    def test_removed_it_is_gone_and_can_be_written_again(self, full: CacheEntry) -> None:
        full.remove()
        assert not full.folder.exists()
        assert TeacherCache().entries() == []
        assert known(full) == []
        assert_can_be_filled_again(full)


def test_a_folder_that_cannot_be_made_is_a_spec_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    entry = TeacherCache(tmp_path / "file" / "cache").entry(CONTENT, ROWS)
    message = "cannot be created .*Not a directory.*; set FEDRAY_CACHE to a writable folder"
    with pytest.raises(SpecError, match=message):
        entry.lock.acquire()
    with pytest.raises(SpecError, match=message):
        entry.write(ALL, VALUES, MADE_BY)
    assert entry.read(ALL)[0] is None
    with pytest.raises(SpecError, match=message):
        TeacherCache(tmp_path / "file" / "cache").entries()


def test_rows_that_cannot_be_written_are_a_spec_error(entry: CacheEntry) -> None:
    file(entry).mkdir(parents=True)
    with pytest.raises(SpecError, match=re.escape(f"the teacher cache {entry.folder.parent} cannot be written (Is a")):
        entry.write(ALL, VALUES, MADE_BY)


def _write(place: int, begin: Any) -> None:
    """Half of the rows are this process's own, the rest every process writes, in orders of their own."""
    entry = TeacherCache().entry(CONTENT, ROWS)
    rng = np.random.default_rng(place)
    mine = [row for row in ALL if row % 2 or row // 2 % 3 == place]
    begin.wait(60)
    for _ in range(20):
        for rows in np.array_split(rng.permutation(mine), 5):
            with entry.lock:
                entry.write(rows, VALUES[rows], MADE_BY | {"place": place})
            values, found = entry.read(rows)
            assert values is not None
            assert found.all()
            assert np.array_equal(values, VALUES[rows])


def test_processes_that_write_at_once_leave_a_whole_entry(entry: CacheEntry) -> None:
    spawn = multiprocessing.get_context("spawn")
    begin = spawn.Barrier(3)
    processes = [spawn.Process(target=_write, args=(place, begin)) for place in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    values, found = entry.read(ALL)
    assert found.all()
    np.testing.assert_array_equal(values, VALUES)
    assert entry.count_valid() == ROWS
    assert {path.name for path in entry.folder.iterdir()} == {"entry.json", "rows.bin"}
