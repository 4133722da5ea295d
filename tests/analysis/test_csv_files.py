import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.studies import PARTITION, write_classes, write_clients, write_partition, write_rounds, write_table

from analysis.csv_files import Columns, read, read_counts, read_last_round
from analysis.records import CLASSES, CLIENTS, ROUNDS

CURVE = Columns(("round", "accuracy"), once=True)
NAMED = Columns(("round", "accuracy"), ("name",))


def of(tmp_path: Path, content: str | bytes, columns: Columns = CURVE) -> tuple[pd.DataFrame | None, list[str]]:
    """What is read of a file of this content, and what is wrong with it, without the file's name."""
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems: list[str] = []
    frame = read(path, columns, problems)
    assert all(problem.startswith(f"'{path}'") for problem in problems)
    return frame, [problem.removeprefix(f"'{path}'") for problem in problems]


def pairs(frame: pd.DataFrame | None) -> list[tuple[int, float]]:
    assert frame is not None
    return list(zip(frame["round"], frame["accuracy"], strict=True))


def test_a_sound_file(tmp_path: Path) -> None:
    write_rounds(tmp_path, [0.25, None, 0.5], {"seconds": [1.0, 2.0, 4.0]})
    problems: list[str] = []
    frame = read(tmp_path / "rounds.csv", ROUNDS, problems)
    assert frame is not None
    assert problems == []
    assert frame.columns.tolist() == list(ROUNDS.names)
    assert frame["round"].dtype == np.int64
    assert frame["round"].tolist() == [1, 2, 3]
    assert frame["seconds"].tolist() == [1.0, 2.0, 4.0]
    assert frame["accuracy"].tolist() == pytest.approx([0.25, math.nan, 0.5], nan_ok=True)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_what_editors_leave(tmp_path: Path, start: bytes, line_end: str) -> None:
    content = start + line_end.join(["round,accuracy", "1,0.25", "", "2,0.5", "", ""]).encode()
    frame, problems = of(tmp_path, content)
    assert pairs(frame) == [(1, 0.25), (2, 0.5)]
    assert problems == []


def test_nan_and_infinity_are_numbers(tmp_path: Path) -> None:
    frame, problems = of(tmp_path, "round,loss\n1,nan\n2,inf\n3,\n", Columns(("round", "loss")))
    assert frame is not None
    assert frame["loss"].tolist() == pytest.approx([math.nan, math.inf, math.nan], nan_ok=True)
    assert problems == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2,0.", ": it has 2 cells, not 3"),
        ("2,0.5,cat,9", ": it has 4 cells, not 3"),
        ("2,half,cat", ": accuracy is 'half', which is not a number"),
        ("2,1.7,cat", ": accuracy is 1.7, which is not a share from 0 to 1"),
        ("2,-0.1,cat", ": accuracy is -0.1, which is not a share from 0 to 1"),
        ("2,inf,cat", ": accuracy is inf, which is not a share from 0 to 1"),
        (",0.5,cat", ": round is '', which is not a number"),
        ("1.5,0.5,cat", ": round is 1.5, which is not a whole number from 0"),
        ("inf,0.5,cat", ": round is inf, which is not a whole number from 0"),
        ("nan,0.5,cat", ": round is nan, which is not a whole number from 0"),
        ("1e300,0.5,cat", ": round is 1e+300, which is not a whole number from 0"),
        ("-2,0.5,cat", ": round is -2, which is not a whole number from 0"),
        ("0,0.5,cat", ": round 0 comes after round 1"),
        ('2,"0.5,cat', ": accuracy is '\"0.5', which is not a number"),
        ('2,"0.5', ": it has 2 cells, not 3"),
    ],
)
def test_a_bad_row_costs_itself(tmp_path: Path, line: str, said: str) -> None:
    frame, problems = of(tmp_path, f"round,accuracy,name\n1,0.25,cat\n{line}\n3,0.75,dog\n", NAMED)
    assert pairs(frame) == [(1, 0.25), (3, 0.75)]
    assert problems == [f", line 3{said}; the row is left out."]


def test_a_quote_that_nobody_closes_swallows_nothing(tmp_path: Path) -> None:
    frame, problems = of(
        tmp_path, 'round,accuracy,name\n1,0.25,"cat\n2,0.5,"a ""big"" dog, or\nship"\n3,0.75,"\n', NAMED
    )
    assert pairs(frame) == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert frame is not None
    assert frame["name"].tolist() == ['"cat', 'a "big" dog, or\nship', '"']
    assert problems == []


def test_texts_of_several_lines_are_texts(tmp_path: Path) -> None:
    content = 'round,accuracy,name\n1,0.25,"two\nlines"\n2,much,cat\n'
    frame, problems = of(tmp_path, content, NAMED)
    assert pairs(frame) == [(1, 0.25)]
    assert problems == [", line 4: accuracy is 'much', which is not a number; the row is left out."]
    frame, problems = of(tmp_path, content.replace("much", "0.5"), NAMED)
    assert pairs(frame) == [(1, 0.25), (2, 0.5)]
    assert problems == []


def test_a_truncated_last_line(tmp_path: Path) -> None:
    write_rounds(tmp_path, [0.25, 0.5, 0.75])
    path = tmp_path / "rounds.csv"
    path.write_bytes(path.read_bytes()[:-20])
    problems: list[str] = []
    assert pairs(read(path, ROUNDS, problems)) == [(1, 0.25), (2, 0.5)]
    assert problems == [f"'{path}', line 4: it has 12 cells, not 18; the row is left out."]


def test_a_block_of_zeros_at_the_end(tmp_path: Path) -> None:
    """What a power cut leaves, here longer than the csv module takes a cell."""
    frame, problems = of(tmp_path, b"round,accuracy\n1,0.25\n" + bytes(200_000))
    assert pairs(frame) == [(1, 0.25)]
    assert problems == [", line 3: it has 1 cells, not 2; the row is left out."]


def test_zeros_in_a_number(tmp_path: Path) -> None:
    frame, problems = of(tmp_path, b"round,accuracy\n1,0.25\n2,0.\x005\n3,0.75\n")
    assert pairs(frame) == [(1, 0.25), (3, 0.75)]
    assert problems == [", line 3: accuracy is '0.?5', which is not a number; the row is left out."]


def test_what_is_not_utf8(tmp_path: Path) -> None:
    frame, problems = of(tmp_path, b"round,accuracy,name\n1,0.25,caf\xe9\n2,\xff,x\n3,0.5,y\n", NAMED)
    assert pairs(frame) == [(1, 0.25), (3, 0.5)]
    assert frame is not None
    assert frame["name"].tolist() == ["caf\ufffd", "y"]
    assert problems == [", line 3: accuracy is '\ufffd', which is not a number; the row is left out."]


def test_rounds_go_up(tmp_path: Path) -> None:
    content = "round,accuracy\n1,0.25\n2,0.5\n2,0.5\n1,0.25\n3,0.75\n"
    frame, problems = of(tmp_path, content)
    assert pairs(frame) == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert problems == [
        ", line 4: round 2 comes after round 2; the row is left out.",
        ", line 5: round 1 comes after round 2; the row is left out.",
    ]
    frame, problems = of(tmp_path, content, Columns(("round", "accuracy")))  # as of clients, several per round
    assert len(pairs(frame)) == 4
    assert problems == [", line 5: round 1 comes after round 2; the row is left out."]


def test_an_empty_file_and_only_a_header(tmp_path: Path) -> None:
    for nothing in ("", "\n\n"):
        assert of(tmp_path, nothing) == (None, [" is empty."])
    for header in ("round,accuracy", "round,accuracy\n", "round,accuracy\r\n\r\n"):
        frame, problems = of(tmp_path, header)
        assert pairs(frame) == []
        assert problems == []


def test_a_missing_column_is_nan(tmp_path: Path) -> None:
    wanted = Columns(("round", "accuracy", "loss"), ("name",))
    for extra in ("", "2,1.7\n"):  # of a sound file, and of a damaged one
        frame, problems = of(tmp_path, f"round,accuracy\n1,0.25\n{extra}", wanted)
        assert pairs(frame) == [(1, 0.25)]
        assert frame is not None
        assert frame["loss"].isna().all()
        assert frame["name"].tolist() == [""]
        assert problems[0] == " has no column loss, name."
    assert of(tmp_path, "a,b\n1,2\n") == (None, [" has no column round, accuracy."])


def test_without_a_key(tmp_path: Path) -> None:
    frame, problems = of(tmp_path, "accuracy\n0.25\n2\n0.5\n")
    assert frame is not None
    assert frame["accuracy"].tolist() == [0.25, 0.5]
    assert frame["round"].isna().all()
    assert problems[1] == ", line 3: accuracy is 2, which is not a share from 0 to 1; the row is left out."


def test_a_column_twice_is_its_first(tmp_path: Path) -> None:
    frame, _ = of(tmp_path, "round,accuracy,accuracy\n1,0.25,0.5\n")
    assert pairs(frame) == [(1, 0.25)]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    problems: list[str] = []
    for name, why in (("nowhere.csv", "No such file or directory"), (".", "Is a directory")):
        path = tmp_path / name
        assert read(path, ROUNDS, problems) is None
        assert read_last_round(path, CLASSES, problems) is None
        assert read_counts(path, problems) is None
        assert problems == [f"'{path}' cannot be read ({why})."] * 3
        problems.clear()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_must_not_be_read(tmp_path: Path) -> None:
    write_rounds(tmp_path, [0.25])
    (tmp_path / "rounds.csv").chmod(0)
    problems: list[str] = []
    assert read(tmp_path / "rounds.csv", ROUNDS, problems) is None
    assert problems == [f"'{tmp_path / 'rounds.csv'}' cannot be read (Permission denied)."]


@pytest.mark.parametrize("chunk", [1, 30, 1000, 1 << 20])
def test_the_last_round_however_it_is_read(tmp_path: Path, chunk: int) -> None:
    write_classes(tmp_path, range(1, 8), [0.9, None, 0.1])
    write_clients(tmp_path, 12, [0.8, 0.7, 0.6, 0.5])
    problems: list[str] = []
    classes = read_last_round(tmp_path / "classes.csv", CLASSES, problems, chunk=chunk)
    clients = read_last_round(tmp_path / "clients.csv", CLIENTS, problems, chunk=chunk)
    assert classes is not None
    assert clients is not None
    assert classes["round"].tolist() == [7, 7, 7]
    assert classes["name"].tolist() == ["cat", "dog", "ship"]
    assert classes["accuracy"].tolist() == pytest.approx([0.9, math.nan, 0.1], nan_ok=True)
    assert clients["round"].tolist() == [12, 12, 12, 12]
    assert clients["client"].tolist() == [0, 1, 2, 3]
    assert clients["local_accuracy"].tolist() == [0.8, 0.7, 0.6, 0.5]
    assert problems == []


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_the_last_round_of_a_file_that_is_cut(tmp_path: Path, chunk: int) -> None:
    """Round 7 is written in part; rounds.csv, which comes after, has no row of it."""
    write_classes(tmp_path, range(1, 8), [0.9, 0.5, 0.1])
    path = tmp_path / "classes.csv"
    path.write_bytes(path.read_bytes()[:-25])
    problems: list[str] = []
    frame = read_last_round(path, CLASSES, problems, until=6, chunk=chunk)
    assert frame is not None
    assert frame["round"].tolist() == [6, 6, 6]
    assert problems == [f"'{path}', line 21: it has 3 cells, not 5; the row is left out."]
    frame = read_last_round(path, CLASSES, [], chunk=chunk)
    assert frame is not None
    assert frame[["round", "name"]].to_numpy().tolist() == [[7, "cat"]]


def test_the_last_round_of_odd_files(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    problems: list[str] = []
    path.write_text("")
    assert read_last_round(path, CLASSES, problems) is None
    path.write_text("round,class,examples,accuracy,name\n")
    frame = read_last_round(path, CLASSES, problems)
    assert frame is not None
    assert frame.empty
    path.write_text("class,name,examples,accuracy\n0,cat,10,0.5\n")
    frame = read_last_round(path, CLASSES, problems)
    assert frame is not None
    assert frame.empty
    assert problems == [f"'{path}' is empty.", f"'{path}' has no column round."]


def test_a_bad_row_of_the_last_round(tmp_path: Path) -> None:
    columns = ("round", "class", "name", "examples", "accuracy")
    rows = [(r, c, f"{c}", 10, 1.7 if (r, c) == (300, 1) else 0.5) for r in range(1, 301) for c in range(3)]
    write_table(tmp_path / "classes.csv", columns, [dict(zip(columns, row, strict=True)) for row in rows])
    problems: list[str] = []
    frame = read_last_round(tmp_path / "classes.csv", CLASSES, problems, chunk=100)
    assert frame is not None
    assert frame["class"].tolist() == [0, 2]
    (said,) = problems
    assert "classes.csv', line 900: accuracy is 1.7," in said  # 1 + 299 · 3 + 2


def test_counts(tmp_path: Path) -> None:
    write_partition(tmp_path, PARTITION)
    problems: list[str] = []
    frame = read_counts(tmp_path / "partition.csv", problems)
    assert frame is not None
    assert problems == []
    assert frame.to_numpy().tolist() == [
        [0, 0, "cat", 60], [0, 1, "dog", 20], [1, 1, "dog", 30], [1, 2, "ship", 10],
        [2, 0, "cat", 5], [2, 1, "dog", 5], [2, 2, "ship", 90], [3, 0, "cat", 40], [3, 2, "ship", 40],
    ]  # fmt: skip


def test_counts_of_classes_with_commas(tmp_path: Path) -> None:
    (tmp_path / "partition.csv").write_text('client,examples,"shark, white","""dog"""\n0,3,1,2\n')
    frame = read_counts(tmp_path / "partition.csv", [])
    assert frame is not None
    assert frame["name"].tolist() == ["shark, white", '"dog"']
    assert frame["examples"].tolist() == [1, 2]


def test_bad_rows_of_counts(tmp_path: Path) -> None:
    path = tmp_path / "partition.csv"
    path.write_bytes(b"client,examples,cat,dog\n0,3,1,2\n1,3,1\n2,3,-1,4\n3,3,1.5,2\n4,3,\x00,3\n5,3,,3\n6,7,0,7")
    problems: list[str] = []
    frame = read_counts(path, problems)
    assert frame is not None
    assert frame[["client", "class", "examples"]].to_numpy().tolist() == [[0, 0, 1], [0, 1, 2], [6, 1, 7]]
    assert problems == [
        f"'{path}', line 3: it has 3 cells, not 4; the row is left out.",
        f"'{path}', line 4: cat is -1, which is not a whole number from 0; the row is left out.",
        f"'{path}', line 5: cat is 1.5, which is not a whole number from 0; the row is left out.",
        f"'{path}', line 6: cat is '?', which is not a number; the row is left out.",
        f"'{path}', line 7: cat is nan, which is not a whole number from 0; the row is left out.",
    ]


def test_no_counts(tmp_path: Path) -> None:
    path = tmp_path / "partition.csv"
    for content in ("", "a,b,c\n1,2,3\n"):
        path.write_text(content)
        problems: list[str] = []
        assert read_counts(path, problems) is None
        assert problems == [f"'{path}' does not begin with the columns client, examples."]
    path.write_text("client,examples,cat\n")
    frame = read_counts(path, problems)
    assert frame is not None
    assert frame.empty
