"""Logits that somebody computed before, read from a parquet."""

import numpy as np

from fedray.config import Precomputed
from fedray.data.dataset import Dataset
from fedray.data.federation import locate, read_table
from fedray.errors import SpecError
from fedray.teachers.base import Logits, check_logits


class PrecomputedTeacher:
    """Looks logits up by an image's path, or by its row in the source."""

    def __init__(self, spec: Precomputed) -> None:
        self._file = spec.file
        self._table = read_table(spec.file, "teacher.file")
        if "logits" not in self._table or not self._table.keys() & {"path", "index"}:
            raise SpecError(
                f"teacher.file: '{spec.file}' needs the columns logits and path or index, "
                f"it has {', '.join(self._table)}."
            )

    def logits(self, data: Dataset) -> Logits:
        """Raises SpecError where an image has no logits, or twice, or they are of another class count."""
        positions = locate(self._table, data, f"teacher.file: '{self._file}'")
        known = positions >= 0
        if np.unique(positions[known], return_counts=True)[1].max(initial=1) > 1:
            raise SpecError(f"teacher.file: '{self._file}' has logits for the same image twice.")
        if known.sum() < len(data):
            raise SpecError(
                f"teacher.file: '{self._file}' has logits for {known.sum()} of the {len(data)} images of "
                f"{data.name}, not for {self._first_missing(data, positions)}."
            )
        if not all(hasattr(row, "__len__") for row in self._table["logits"]):
            raise SpecError(
                f"teacher.file: '{self._file}' must have a list of numbers in each row of its column logits."
            )
        lengths = {len(row) for row in self._table["logits"]}
        if len(lengths) != 1:
            raise SpecError(f"teacher.file: '{self._file}' has logits of different lengths {sorted(lengths)}.")
        found = np.empty((len(data), *lengths), dtype=np.float32)
        found[positions[known]] = np.stack(list(self._table["logits"][known]))
        return check_logits(found, data, f"'{self._file}'")

    def _first_missing(self, data: Dataset, positions: np.ndarray) -> str:
        missing = np.setdiff1d(np.arange(len(data)), positions)[0]
        return f"row {data.rows[missing]}" if data.paths is None else f"'{data.paths[missing]}'"
