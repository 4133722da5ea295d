"""`fedray teachers`: what the bank holds after a tiny run, and how good a teacher is."""

import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import federated

from fedray.cli.main import main
from fedray.config import loader
from fedray.teachers import loading
from fedray.teachers.cache import CacheEntry, TeacherCache

SPEC = """
base:
  data: {train: digits, test: digits, train_limit: 60, test_limit: 40, public_fraction: 0.3}
  partition: {kind: iid, clients: 2}
  teacher: {kind: supervised, epochs: 1}
  strategy: {name: fedlpfm}
  training: {rounds: 1, batch_size: 16}
  resources: {backend: serial}
space:
  strategy.lam: {grid: [0.2, 0.8]}
"""


class Terminal:
    """Runs the command in this process and in a folder of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, command: str, code: int = 0) -> str:
        """What it prints; its errors where it ends in a code other than 0."""
        self._monkeypatch.setattr(sys, "argv", ["fedray", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert ended.value.code == code, said.err
        return said.err if code else said.out


@pytest.fixture
def fedray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    (tmp_path / "study.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def filled(fedray: Terminal) -> list[CacheEntry]:
    """The bank after a run of two trials, and a check: the training set's entry, and the test set's."""
    fedray("run study.yaml --quiet")
    fedray("teachers check study.yaml")
    return sorted(TeacherCache().entries(), key=lambda entry: -entry.rows)


def test_an_empty_bank(fedray: Terminal) -> None:
    assert fedray("teachers list").splitlines() == ["the bank is empty", f"bank: {TeacherCache().folder}"]


def test_list(fedray: Terminal, filled: list[CacheEntry]) -> None:
    train, test = filled
    os.utime(test.folder / "entry.json", (1e9, 1e9))
    header, first, second, where = fedray("teachers list").splitlines()
    assert header.split() == ["key", "teacher", "client", "data", "answers", "views", "rows", "kB", "last", "used"]
    cells = [re.split(r"\s{2,}", line.strip()) for line in (first, second)]
    size = f"{train.bytes / 1e3:.0f}"
    assert cells[0][:-1] == [train.key, "the stand-in", "all", "digits", "logits", "plain", "42/60", size]
    assert cells[0][-1][:10] == time.strftime("%Y-%m-%d", time.localtime(train.last_used))
    assert cells[1][:7] == [test.key, "the stand-in", "all", "digits", "logits", "plain", "40/40"]
    assert cells[1][-1][:7] == "2001-09"
    assert where == f"bank: {TeacherCache().folder}"


def test_show(fedray: Terminal, filled: list[CacheEntry]) -> None:
    train, _ = filled
    os.utime(train.folder / "entry.json", (1e9, 1e9))
    shown = json.loads(fedray(f"teachers show {train.key[:8]}"))
    assert shown["folder"] == str(train.folder)
    assert (shown["rows"], shown["rows_known"], shown["width"], shown["dtype"]) == (60, 42, 10, "float32")
    assert shown["bytes_on_disk"] == train.bytes > 0
    assert shown["content"]["teacher"]["kind"] == "supervised"
    assert shown["made_by"]["teacher"] == "the stand-in"
    assert train.last_used == 1e9  # looking at it is no use of it


def test_show_finds_damaged_rows(fedray: Terminal, filled: list[CacheEntry]) -> None:
    train, _ = filled
    text = bytearray((train.folder / "rows.bin").read_bytes())
    row = int(federated.load(loader.load("study.yaml")[0].experiment).shards[0][0])
    text[row * 44 + 30] ^= 1  # a row is 4 bytes of check and 10 numbers of 4
    (train.folder / "rows.bin").write_bytes(text)
    shown = json.loads(fedray(f"teachers show {train.key}"))
    assert (shown["rows_known"], shown["rows_damaged"]) == (41, 1)


def test_a_key_that_nobody_has(fedray: Terminal, filled: list[CacheEntry]) -> None:
    said = f"fedray: there is no entry 'zzz' in {TeacherCache().folder}.\n"
    assert fedray("teachers show zzz", code=2) == said
    assert fedray(f"teachers prune {filled[0].key} zzz", code=2) == said
    assert len(TeacherCache().entries()) == 2


def test_prune_must_be_told_what(fedray: Terminal, filled: list[CacheEntry]) -> None:
    said = "fedray: say what to delete, in one way: KEY ..., --unused-days N, or --all.\n"
    assert fedray("teachers prune", code=2) == said
    assert len(TeacherCache().entries()) == len(filled)


def test_prune_by_key_and_what_is_asked_again_is_computed_again(fedray: Terminal, filled: list[CacheEntry]) -> None:
    train, test = filled
    size = f"{train.bytes / 1e6:.1f} MB"
    assert fedray(f"teachers prune {train.key[:9]}") == f"deleted 1 of the bank's entries, {size}\n"
    assert [entry.key for entry in TeacherCache().entries()] == [test.key]
    assert fedray("run study.yaml --quiet --results again").count("42 forward passes made") == 1
    assert TeacherCache().find(train.key).known() == 42


def test_prune_the_same_entry_named_twice(fedray: Terminal, filled: list[CacheEntry]) -> None:
    train, test = filled
    said = fedray(f"teachers prune {train.key[:9]} {train.key}")
    assert said.startswith("deleted 1 of the bank's entries")
    assert [entry.key for entry in TeacherCache().entries()] == [test.key]


def test_prune_what_was_not_used_lately(fedray: Terminal, filled: list[CacheEntry]) -> None:
    train, test = filled
    for entry, days in ((train, 3), (test, 10)):
        os.utime(entry.folder / "entry.json", (time.time() - days * 86400,) * 2)
    assert fedray("teachers prune --unused-days 20").startswith("deleted 0 ")
    assert fedray("teachers prune --unused-days 5").startswith("deleted 1 ")
    assert [entry.key for entry in TeacherCache().entries()] == [train.key]


def test_an_entry_that_cannot_be_read_is_said_so_and_goes_with_all(fedray: Terminal, filled: list[CacheEntry]) -> None:
    train, test = filled
    (train.folder / "entry.json").write_text("{")
    said = fedray("teachers list").splitlines()
    assert said[1].split()[0] == test.key
    assert said[2] == f"unreadable, and computed again when it is asked: {train.folder}"
    assert fedray("teachers prune --all").startswith("deleted 1 of the bank's entries")
    assert not train.folder.exists()


def test_prune_all(fedray: Terminal, filled: list[CacheEntry]) -> None:
    assert fedray("teachers prune --all").startswith(f"deleted {len(filled)} of the bank's entries")
    assert TeacherCache().entries() == []
    assert fedray("teachers prune --all") == "deleted 0 of the bank's entries, 0.0 MB\n"


def test_check(fedray: Terminal) -> None:
    said = fedray("teachers check study.yaml").splitlines()
    experiment = loader.load("study.yaml")[0].experiment
    data = federated.load(experiment)
    logits = loading.load(experiment.teacher, data, 0, torch.device("cpu")).ask(data.test.images)["logits"]
    accuracy = np.mean(logits.argmax(1) == data.test.labels)
    assert said[:2] == ["check: teacher: 32 of 40 answers", "check: teacher: 40 of 40 answers"]
    said = said[1:]
    assert said[1].split() == ["teacher", "data", "images", "accuracy", "published"]
    assert said[2].split() == ["supervised", "digits", "40", f"{accuracy:.2%}", "-"]
    assert len(said) == 3  # one teacher, though there are two trials
    assert fedray("teachers check study.yaml").splitlines() == said[1:]  # and it was asked once


def test_check_without_a_teacher(fedray: Terminal) -> None:
    said = fedray("teachers check study.yaml teacher=null strategy.lam=0", code=2)
    assert said == "fedray: the spec has no teacher to check.\n"


def test_check_of_a_spec_that_is_not_there(fedray: Terminal) -> None:
    assert "there is no spec 'nowhere.yaml'" in fedray("teachers check nowhere.yaml", code=2)
