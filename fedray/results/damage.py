"""Finds out whether the files of a finished run can still be used."""

from pathlib import Path

from fedray.errors import RunError, SpecError
from fedray.models.weights import WeightsFile
from fedray.results.checksums import differing_files
from fedray.results.environment import read_environment
from fedray.results.loader import read_rows
from fedray.results.writer import TEXT_COLUMNS
from fedray.types import Row

FILES = ("spec.yaml", "environment.json", "rounds.csv", "clients.csv", "classes.csv", "partition.csv")
"""Files that each run has from its first round on."""
LOGS = ("faults.csv",)
"""Files on which no result depends."""


def damage(folder: Path, rounds: int | None) -> str:
    """Return a clause on the first damaged file of a finished run; empty if they are whole.

    `rounds`: the number of its rounds, None to compare checksums only.
    """
    for name in FILES:
        file = folder / name
        if not file.is_file() or not file.stat().st_size:
            return f"{name} is missing or empty"
    try:
        read_environment(folder)
    except SpecError:
        return "environment.json is damaged"
    if rounds is not None and [row.get("round") for row in valid_rows(folder / "rounds.csv")] != list(
        range(1, rounds + 1)
    ):
        return f"rounds.csv does not have the rounds 1 to {rounds}"
    for name in differing_files(folder):
        if name not in LOGS:
            return f"{name} differs from its checksum"
    try:
        WeightsFile(folder / "model.safetensors").read()
    except RunError:
        return "model.safetensors is damaged"
    return ""


def valid_rows(path: Path) -> list[Row]:
    """Return the rows of rounds.csv whose cells are numbers where they must be; empty if it cannot be read."""
    rows = read_rows(path)
    return [row for row in rows if isinstance(row.get("round"), int) and not any(map(_is_text, row.items()))]


def _is_text(cell: tuple[str, object]) -> bool:
    name, value = cell
    return isinstance(value, str) and name not in TEXT_COLUMNS
