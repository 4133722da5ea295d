"""Checksums of the files of a finished run."""

import hashlib
import json
from pathlib import Path

import pytest

from fedray.errors import SpecError
from fedray.results.checksums import check_checksum, checksum_problems, differing_files, record_checksums
from fedray.results.documents import read_document, write_document
from fedray.results.environment import read_environment, write_environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rounds.csv").write_text("round,test_accuracy\n1,0.50\n")
    (tmp_path / "spec.yaml").write_text("seed: 0\n")
    write_environment(tmp_path, {"format": 2, "identity": {"code": ["ab"]}})
    record_checksums(tmp_path)
    return tmp_path


def test_environment_has_the_sha256_of_each_file(folder: Path) -> None:
    document = read_environment(folder)
    assert document["identity"] == {"code": ["ab"]}
    assert document["checksums"] == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("spec.yaml", "rounds.csv")
    }


@pytest.mark.parametrize("name", ["rounds.csv", "spec.yaml"])
def test_one_changed_digit_is_found_by_name(folder: Path, name: str) -> None:
    assert checksum_problems(folder) == []
    file = folder / name
    file.write_text(file.read_text().replace("0", "8", 1))
    assert [*differing_files(folder)] == [name]
    (problem,) = checksum_problems(folder)
    assert problem.startswith(f"'{file}' is damaged: its contents differ from its checksum")
    with pytest.raises(SpecError, match=r"differ from its checksum"):
        check_checksum(file)
    file.unlink()
    assert [*differing_files(folder)] == [name]


def test_files_of_an_unfinished_run_have_no_checksums(folder: Path) -> None:
    write_environment(folder, {"format": 2})
    (folder / "rounds.csv").write_text("")
    check_checksum(folder / "rounds.csv")
    assert checksum_problems(folder) == []


def test_document_differs_from_its_checksum_after_one_changed_character(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_document(file, {"round": 2, "clients": {"0": 1}, "rows": (1, 2)})
    assert read_document(file) == ({"round": 2, "clients": {"0": 1}, "rows": [1, 2]}, True)
    content = file.read_text()
    file.write_text(content.replace('"round": 2', '"round": 3'))
    with pytest.raises(SpecError, match=r"state\.json' is missing or damaged"):
        read_document(file)
    file.write_text(json.dumps({"round": 2}))
    assert read_document(file) == ({"round": 2}, False)
