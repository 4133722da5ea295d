"""Tables of a run after a rollback and after a crash."""

import zlib
from pathlib import Path

import pandas as pd
import pytest

from fedray.errors import RunError
from fedray.results.rows import RoundRecord
from fedray.results.writer import CsvTable, RunTables, differing_tables
from fedray.types import Fault

LOST = Fault("node lost", "round 3", "host2", "round 2 run again", "heartbeat\ntimeout")


def record(number: int) -> RoundRecord:
    return RoundRecord({"round": number}, [{"round": number, "client": 0}], [{"round": number, "class": 0}])


def rounds(folder: Path, name: str) -> list[int]:
    return [int(number) for number in pd.read_csv(folder / f"{name}.csv")["round"]]


def test_write_flushes_rows_to_disk(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv", ("round", "a", "b"))
    table.write([{"round": 1, "b": 2.5}])
    assert (tmp_path / "t.csv").read_text() == "round,a,b\n1,,2.5\n"
    table.close()


def test_reopened_table_drops_rows_after_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("round,a\n1,x\n2,x\n2,y\n3,x\n")
    CsvTable(tmp_path / "t.csv", ("round", "a"), after_round=2).close()
    assert pd.read_csv(tmp_path / "t.csv").to_numpy().tolist() == [[1, "x"], [2, "x"], [2, "y"]]


def test_rollback_drops_later_rounds_and_keeps_faults(tmp_path: Path) -> None:
    with RunTables(tmp_path, [], 0) as tables:
        for number in (1, 2):
            tables.write(record(number))
        tables.rollback(1)
        tables.report(1, [LOST])
        tables.write(record(2))
    for name in ("rounds", "clients", "classes"):
        assert rounds(tmp_path, name) == [1, 2]
    (row,) = pd.read_csv(tmp_path / "faults.csv").to_dict("records")
    assert (row["round"], row["fault"], row["response"]) == (1, "node lost", "round 2 run again")


def test_reopened_tables_keep_faults(tmp_path: Path) -> None:
    with RunTables(tmp_path, [], 0) as tables:
        tables.report(1, [LOST, LOST])
    with (tmp_path / "faults.csv").open("a") as file:
        file.write("3,2026-11")  # incomplete: the process was killed
    with RunTables(tmp_path, [], 0) as tables:
        tables.report(4, [LOST])
    assert rounds(tmp_path, "faults") == [1, 1, 4]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"round,time\n1,now\n", b"\x00" * 50])
def test_damaged_log_of_faults_is_set_aside(tmp_path: Path, content: bytes) -> None:
    with RunTables(tmp_path, [], 0) as tables:
        tables.write(record(1))
    (tmp_path / "faults.csv").write_bytes(content)
    with RunTables(tmp_path, [], 1) as tables:
        tables.report(2, [LOST])
    assert rounds(tmp_path, "faults") == [2]
    assert (tmp_path / "faults.csv.damaged").read_bytes() == content


def test_prefix_is_the_length_and_crc_of_the_bytes_on_disk(tmp_path: Path) -> None:
    with RunTables(tmp_path, [], 0) as tables:
        for number in (1, 2, 3):
            tables.write(record(number))
        tables.rollback(2)
        tables.write(record(3))
        prefixes = tables.prefixes
    assert list(prefixes) == ["rounds.csv", "clients.csv", "classes.csv", "client_accuracy.csv"]
    for name, prefix in prefixes.items():
        content = (tmp_path / name).read_bytes()
        assert (prefix.length, prefix.crc32) == (len(content), zlib.crc32(content))


@pytest.mark.parametrize("name", ["rounds.csv", "clients.csv", "classes.csv"])
def test_table_differs_once_a_digit_changes_or_its_last_cell_is_cut(tmp_path: Path, name: str) -> None:
    """A cut value looks like a whole one: 0.12 for 0.125. Rows after the prefix do not matter."""
    with RunTables(tmp_path, [], 0) as tables:
        tables.write(record(1))
        prefixes = tables.prefixes
        tables.write(record(2))
    assert differing_tables(tmp_path, prefixes) == []
    table = tmp_path / name
    content = table.read_bytes()
    position = content.index(b"\n1,") + 1
    for damaged in (content[:position] + b"3" + content[position + 1 :], content[: prefixes[name].length - 1], b""):
        table.write_bytes(damaged)
        assert differing_tables(tmp_path, prefixes) == [name]
    table.unlink()
    assert differing_tables(tmp_path, prefixes) == [name]
    table.mkdir()
    assert differing_tables(tmp_path, prefixes) == [name]


def test_error_while_a_table_is_opened_leaves_the_former_one(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("round,a\n1,x\n2,x\n")
    (tmp_path / "t.csv.partial").mkdir()
    with pytest.raises(RunError, match=r"t\.csv' cannot be written"):
        CsvTable(table, ("round", "a"), after_round=1)
    assert table.read_text() == "round,a\n1,x\n2,x\n"
