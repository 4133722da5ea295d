"""The functions that run on a node."""

from pathlib import Path

import pytest

from fedray.doctor.node import describe_node, reply_to_token


def test_file_sizes_by_every_notation_of_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRAY_DATA", str(tmp_path))
    for name in ("x.bin", "y.bin"):
        Path(name).write_bytes(b"123")
    Path("CIFAR10").mkdir()
    sizes = {
        "x.bin": 3,
        f"file:{tmp_path}/x.bin": 3,
        "parquet:*.bin": 6,
        "local-dir:missing": None,
        "torchvision:CIFAR10": 0,
        "torchvision:MNIST": None,
    }
    assert describe_node(list(sizes))["file_sizes"] == sizes


def test_node_replies_with_the_token(tmp_path: Path) -> None:
    (tmp_path / "mark").mkdir()
    assert reply_to_token(str(tmp_path), "mark", "b")["token"] == ""
    (tmp_path / "mark" / "token").write_text("word")
    assert reply_to_token(str(tmp_path), "mark", "b")["token"] == "word"
    assert (tmp_path / "mark" / "b").read_text() == "word"


def test_node_reports_why_it_cannot_reply(tmp_path: Path) -> None:
    (tmp_path / "mark" / "c").mkdir(parents=True)
    (tmp_path / "mark" / "token").write_text("word")
    assert reply_to_token(str(tmp_path), "mark", "c")["error"] == "Is a directory"
