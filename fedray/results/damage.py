"""Finds out whether the files of a finished run can still be used, without reading its weights."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from fedray.results.loader import read_json, read_rows
from fedray.results.writer import TEXT_COLUMNS
from fedray.types import Row

FILES = ("spec.yaml", "environment.json", "rounds.csv", "clients.csv", "classes.csv", "partition.csv")
"""Files that each run has from its first round on."""


def damage(folder: Path, rounds: int) -> str:
    """Return a clause on the first damaged file of a finished run of some rounds; empty if they are whole."""
    for name in FILES:
        file = folder / name
        if not file.is_file() or not file.stat().st_size:
            return f"{name} is missing or empty"
    problems: list[str] = []
    if not read_json(folder / "environment.json", problems):
        return "environment.json is damaged"
    if [row.get("round") for row in valid_rows(folder / "rounds.csv")] != list(range(1, rounds + 1)):
        return f"rounds.csv does not have the rounds 1 to {rounds}"
    try:
        with safe_open(folder / "model.safetensors", "numpy") as model:
            model.keys()
    except (OSError, SafetensorError):
        return "model.safetensors is damaged"
    return ""


def valid_rows(path: Path) -> list[Row]:
    """Return the rows of rounds.csv whose cells are numbers where they must be; empty if it cannot be read."""
    rows = read_rows(path)
    return [row for row in rows if isinstance(row.get("round"), int) and not any(map(_is_text, row.items()))]


def _is_text(cell: tuple[str, object]) -> bool:
    name, value = cell
    return isinstance(value, str) and name not in TEXT_COLUMNS
