"""`fedray teachers`: the cache's entries after a tiny run, and the accuracy of a teacher."""

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
    """Runs the command in this process, in a folder of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, command: str, code: int = 0) -> str:
        """Return the standard output, or the standard error where an exit code other than 0 is expected."""
        self._monkeypatch.setattr(sys, "argv", ["fedray", *shlex.split(command)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = self._capsys.readouterr()
        assert exit_info.value.code == code, captured.err
        return captured.err if code else captured.out


@pytest.fixture
def fedray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    (tmp_path / "study.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capsys)


@pytest.fixture
def entries(fedray: Terminal) -> list[CacheEntry]:
    """The cache after a run of two trials and a check: the entries of the training set and of the test set."""
    fedray("run study.yaml --quiet")
    fedray("teachers check study.yaml")
    return sorted(TeacherCache().entries(), key=lambda entry: -entry.rows)


def test_list_of_an_empty_cache(fedray: Terminal) -> None:
    folder = TeacherCache().folder
    assert fedray("teachers list").splitlines() == ["the teacher cache is empty", f"teacher cache: {folder}"]


def test_list(fedray: Terminal, entries: list[CacheEntry]) -> None:
    train, test = entries
    os.utime(test.folder / "entry.json", (1e9, 1e9))
    header, first, second, footer = fedray("teachers list").splitlines()
    assert header.split() == ["key", "teacher", "client", "data", "outputs", "views", "rows", "kB", "last", "used"]
    cells = [re.split(r"\s{2,}", line.strip()) for line in (first, second)]
    size = f"{train.bytes / 1e3:.0f}"
    assert cells[0][:-1] == [train.key, "the stand-in", "all", "digits", "logits", "plain", "42/60", size]
    assert cells[0][-1][:10] == time.strftime("%Y-%m-%d", time.localtime(train.last_used))
    assert cells[1][:7] == [test.key, "the stand-in", "all", "digits", "logits", "plain", "40/40"]
    assert cells[1][-1][:7] == "2001-09"
    assert footer == f"teacher cache: {TeacherCache().folder}"


def test_show(fedray: Terminal, entries: list[CacheEntry]) -> None:
    train, _ = entries
    os.utime(train.folder / "entry.json", (1e9, 1e9))
    shown = json.loads(fedray(f"teachers show {train.key[:8]}"))
    assert shown["folder"] == str(train.folder)
    assert (shown["rows"], shown["rows_valid"], shown["width"], shown["dtype"]) == (60, 42, 10, "float32")
    assert shown["bytes_on_disk"] == train.bytes > 0
    assert shown["content"]["teacher"]["kind"] == "supervised"
    assert shown["produced_by"]["teacher"] == "the stand-in"
    assert train.last_used == 1e9  # showing an entry is not a use


def test_show_counts_damaged_rows(fedray: Terminal, entries: list[CacheEntry]) -> None:
    train, _ = entries
    content = bytearray((train.folder / "rows.bin").read_bytes())
    row = int(federated.load(loader.load("study.yaml")[0].experiment).shards[0][0])
    content[row * 44 + 30] ^= 1  # a row is a checksum of 4 bytes and 10 numbers of 4 bytes
    (train.folder / "rows.bin").write_bytes(content)
    shown = json.loads(fedray(f"teachers show {train.key}"))
    assert (shown["rows_valid"], shown["rows_damaged"]) == (41, 1)


def test_an_unknown_key_is_refused(fedray: Terminal, entries: list[CacheEntry]) -> None:
    message = f"fedray: there is no entry 'zzz' in {TeacherCache().folder}.\n"
    assert fedray("teachers show zzz", code=2) == message
    assert fedray(f"teachers prune {entries[0].key} zzz", code=2) == message
    assert len(TeacherCache().entries()) == 2


def test_prune_needs_a_choice(fedray: Terminal, entries: list[CacheEntry]) -> None:
    message = "fedray: choose the entries to delete with exactly one of KEY ..., --unused-days N and --all.\n"
    assert fedray("teachers prune", code=2) == message
    assert len(TeacherCache().entries()) == len(entries)


def test_pruned_outputs_are_computed_again(fedray: Terminal, entries: list[CacheEntry]) -> None:
    train, test = entries
    size = f"{train.bytes / 1e6:.1f} MB"
    assert fedray(f"teachers prune {train.key[:9]}") == f"deleted 1 entry, {size}\n"
    assert [entry.key for entry in TeacherCache().entries()] == [test.key]
    assert fedray("run study.yaml --quiet --results again").count("42 forward passes") == 1
    assert TeacherCache().find(train.key).count_valid() == 42


def test_prune_of_an_entry_named_twice(fedray: Terminal, entries: list[CacheEntry]) -> None:
    train, test = entries
    assert fedray(f"teachers prune {train.key[:9]} {train.key}").startswith("deleted 1 entry,")
    assert [entry.key for entry in TeacherCache().entries()] == [test.key]


def test_prune_of_unused_entries(fedray: Terminal, entries: list[CacheEntry]) -> None:
    train, test = entries
    for entry, days in ((train, 3), (test, 10)):
        os.utime(entry.folder / "entry.json", (time.time() - days * 86400,) * 2)
    assert fedray("teachers prune --unused-days 20").startswith("deleted 0 ")
    assert fedray("teachers prune --unused-days 5").startswith("deleted 1 ")
    assert [entry.key for entry in TeacherCache().entries()] == [train.key]


def test_unreadable_entries_are_listed_and_pruned(fedray: Terminal, entries: list[CacheEntry]) -> None:
    train, test = entries
    (train.folder / "entry.json").write_text("{")
    lines = fedray("teachers list").splitlines()
    assert lines[1].split()[0] == test.key
    assert lines[2] == f"unreadable entry, its outputs will be computed again: {train.folder}"
    assert fedray("teachers prune --all").startswith("deleted 1 entry,")
    assert not train.folder.exists()


def test_prune_all(fedray: Terminal, entries: list[CacheEntry]) -> None:
    assert fedray("teachers prune --all").startswith(f"deleted {len(entries)} entries,")
    assert TeacherCache().entries() == []
    assert fedray("teachers prune --all") == "deleted 0 entries, 0.0 MB\n"


def test_check(fedray: Terminal) -> None:
    lines = fedray("teachers check study.yaml").splitlines()
    experiment = loader.load("study.yaml")[0].experiment
    data = federated.load(experiment)
    logits = loading.load(experiment.teacher, data, 0, torch.device("cpu")).outputs(data.test.images)["logits"]
    accuracy = np.mean(logits.argmax(1) == data.test.labels)
    assert lines[:2] == ["check: teacher: 32 of 40 outputs", "check: teacher: 40 of 40 outputs"]
    table = lines[2:]
    assert table[0].split() == ["teacher", "data", "images", "accuracy", "published"]
    assert table[1].split() == ["supervised", "digits", "40", f"{accuracy:.2%}", "-"]
    assert len(table) == 2  # two trials have one teacher
    assert fedray("teachers check study.yaml").splitlines() == table  # all outputs are cached


def test_check_without_a_teacher(fedray: Terminal) -> None:
    message = fedray("teachers check study.yaml teacher=null strategy.lam=0", code=2)
    assert message == "fedray: the spec has no teacher to check.\n"


def test_check_of_a_missing_spec(fedray: Terminal) -> None:
    assert "there is no spec 'nowhere.yaml'" in fedray("teachers check nowhere.yaml", code=2)
