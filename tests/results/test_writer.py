"""The tables of a run when rounds are run again, and when a line was torn."""

from pathlib import Path

import pandas as pd

from fedray.results.rows import RoundRecord
from fedray.results.writer import RunTables
from fedray.types import Fault

LOST = Fault("node lost", "round 3", "host2", "back to round 1", "it\nwent away")


def report(number: int) -> RoundRecord:
    return RoundRecord({"round": number}, [{"round": number, "client": 0}], [{"round": number, "class": 0}])


def rounds(folder: Path, name: str) -> list[int]:
    return [int(number) for number in pd.read_csv(folder / f"{name}.csv")["round"]]


def test_rollback_drops_later_rounds_and_keeps_faults(tmp_path: Path) -> None:
    with RunTables(tmp_path, [], 0) as tables:
        for number in (1, 2):
            tables.write(report(number))
        tables.rollback(1)
        tables.report(1, [LOST])
        tables.write(report(2))
    for name in ("rounds", "clients", "classes"):
        assert rounds(tmp_path, name) == [1, 2]
    (row,) = pd.read_csv(tmp_path / "faults.csv").to_dict("records")
    assert (row["round"], row["fault"], row["response"]) == (1, "node lost", "back to round 1")


def test_reopened_tables_keep_faults(tmp_path: Path) -> None:
    with RunTables(tmp_path, [], 0) as tables:
        tables.report(1, [LOST, LOST])
    with (tmp_path / "faults.csv").open("a") as file:
        file.write("3,2026-11")  # torn as its process was killed
    with RunTables(tmp_path, [], 0) as tables:
        tables.report(4, [LOST])
    assert rounds(tmp_path, "faults") == [1, 1, 4]
