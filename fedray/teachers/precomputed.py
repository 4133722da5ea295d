"""Answers that somebody computed before, read from a parquet."""

import numpy as np
import numpy.typing as npt

from fedray.data.dataset import Dataset
from fedray.data.example_table import locate, read_table
from fedray.errors import SpecError
from fedray.teachers.sections import Precomputed
from fedray.types import OutputKind


class PrecomputedTeacher:
    """Looks answers up by an image's path, or by its row in the source."""

    def __init__(self, spec: Precomputed) -> None:
        self._file = spec.file
        self._table = read_table(spec.file, "teacher.file")
        if not self._table.keys() & {"logits", "features"} or not self._table.keys() & {"path", "index"}:
            raise SpecError(
                f"teacher.file: '{spec.file}' needs the columns logits (or features) and path or index, "
                f"it has {', '.join(self._table)}."
            )

    def answers(self, output_kind: OutputKind, data: Dataset) -> npt.NDArray[np.float32]:
        """float32 [N, classes] or [N, d] for the data's images, in their order.

        Raises SpecError where an image has no answer, or two, or they are not one number per class.
        """
        if output_kind not in self._table:
            raise SpecError(f"teacher.file: '{self._file}' has no column {output_kind}, which strategy.loss looks at.")
        positions = locate(self._table, data, f"teacher.file: '{self._file}'")
        known = positions >= 0
        if np.unique(positions[known], return_counts=True)[1].max(initial=1) > 1:
            raise SpecError(f"teacher.file: '{self._file}' has {output_kind} for the same image twice.")
        if known.sum() < len(data):
            raise SpecError(
                f"teacher.file: '{self._file}' has {output_kind} for {known.sum()} of the {len(data)} images of "
                f"{data.name}, not for {self._first_missing(data, positions)}."
            )
        rows = self._table[output_kind][known]
        found = np.empty((len(data), self._width(output_kind)), dtype=np.float32)
        found[positions[known]] = np.stack(list(rows))
        if output_kind == "logits" and found.shape[1] != len(data.classes):
            raise SpecError(
                f"teacher: '{self._file}' gives logits {list(found.shape)}, but {data.name} needs "
                f"{[len(data), len(data.classes)]} (images x classes)."
            )
        if not np.isfinite(found).all():
            raise SpecError(f"teacher: '{self._file}' gives {output_kind} that are not finite.")
        return found

    def _width(self, output_kind: OutputKind) -> int:
        if not all(hasattr(row, "__len__") for row in self._table[output_kind]):
            raise SpecError(
                f"teacher.file: '{self._file}' must have a list of numbers in each row of its column {output_kind}."
            )
        lengths = {len(row) for row in self._table[output_kind]}
        if len(lengths) != 1:
            raise SpecError(f"teacher.file: '{self._file}' has {output_kind} of different lengths {sorted(lengths)}.")
        return int(lengths.pop())

    def _first_missing(self, data: Dataset, positions: np.ndarray) -> str:
        missing = np.setdiff1d(np.arange(len(data)), positions)[0]
        return f"row {data.rows[missing]}" if data.paths is None else f"'{data.paths[missing]}'"
