"""Checksums of the files of a finished run, which environment.json records before the run counts as finished.

The final weights carry their own checksum (`fedray/models/weights.py`).
"""

import os
from collections.abc import Iterator
from pathlib import Path

from fedray.errors import SpecError, writing
from fedray.files import sha256_of_file
from fedray.results.environment import read_environment, write_environment

FIELD = "checksums"
"""Field of environment.json: the SHA-256 of each file, by name."""
FILES = (
    "spec.yaml", "rounds.csv", "clients.csv", "classes.csv", "client_accuracy.csv", "partition.csv",
    "confusion-proxy.csv", "confusion-teacher.csv", "costs.json", "faults.csv",
)  # fmt: skip


def record_checksums(folder: Path) -> None:
    """Synchronize the files of a run that ends to disk, and record their checksums. Raises RunError."""
    checksums = dict[str, str]()
    with writing(folder):
        for name in FILES:
            if (folder / name).is_file():
                with (folder / name).open("rb") as file:
                    os.fsync(file.fileno())
                checksums[name] = _sha256(folder / name)
    write_environment(folder, {**read_environment(folder), FIELD: checksums})


def check_checksum(file: Path) -> None:
    """Raises SpecError if a file of a finished run differs from its checksum. Files without one pass."""
    recorded = _recorded(file.parent).get(file.name)
    if recorded is not None and _sha256(file) != recorded:
        raise SpecError(_sentence(file))


def differing_files(folder: Path) -> Iterator[str]:
    """Yield the names of the files of a finished run that are missing or differ from their checksums."""
    for name, recorded in _recorded(folder).items():
        if _sha256(folder / name) != recorded:
            yield name


def checksum_problems(folder: Path) -> list[str]:
    """Return a sentence on each file of a finished run that differs from its checksum."""
    return [_sentence(folder / name) for name in differing_files(folder)]


def _sentence(file: Path) -> str:
    return f"'{file}' is damaged: its contents differ from its checksum; it is left out."


def _recorded(folder: Path) -> dict[str, str]:
    """Return the recorded checksums by name; none for an unfinished run and for a damaged environment.json."""
    try:
        recorded = read_environment(folder).get(FIELD)
    except SpecError:
        return {}
    return dict(recorded) if isinstance(recorded, dict) else {}


def _sha256(file: Path) -> str:
    """Return the SHA-256 of a file; empty if it cannot be read."""
    try:
        return sha256_of_file(file)
    except OSError:
        return ""
