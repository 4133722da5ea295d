"""Tables of a run after a rollback and after a crash."""

from pathlib import Path

import pandas as pd
import pytest

from fedray.results.rows import RoundRecord
from fedray.results.writer import ROUNDS_COLUMNS, CsvTable, RunTables, last_complete_round
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


def test_line_that_is_cut_in_its_last_cell_is_no_row(tmp_path: Path) -> None:
    """A cut value looks like a whole one: 0.12 for 0.125."""
    (tmp_path / "rounds.csv").write_text(",".join(ROUNDS_COLUMNS) + "\n" + _round(1) + _round(2))
    (tmp_path / "clients.csv").write_text("round,client,train_accuracy\n1,0,0.5\n2,0,0.125\n")
    (tmp_path / "classes.csv").write_text("round,class,test_accuracy\n1,0,0.5\n2,0,0.125\n")
    assert last_complete_round(tmp_path) == 2  # earlier versions did not write client_accuracy.csv
    (tmp_path / "client_accuracy.csv").write_text("round,client,test_accuracy\n1,0,0.5\n2,0,0.125\n")
    assert last_complete_round(tmp_path) == 2
    for name in ("clients", "classes", "client_accuracy"):
        table = tmp_path / f"{name}.csv"
        whole = table.read_text()
        table.write_text(whole[:-2])
        assert last_complete_round(tmp_path) == 1
        table.write_text(whole)


def _round(number: int) -> str:
    cells = {"round": number, "test_accuracy": 0.5, "clients": 1, "failed_clients": 0}
    return ",".join(str(cells.get(name, "")) for name in ROUNDS_COLUMNS) + "\n"
