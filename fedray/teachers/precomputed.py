"""A teacher whose outputs are read from a parquet file."""

import numpy as np
import numpy.typing as npt

from fedray.data.dataset import Dataset
from fedray.data.example_table import locate, read_table
from fedray.data.request import reading
from fedray.errors import SpecError
from fedray.teachers.sections import Precomputed
from fedray.types import Indices, OutputKind


class PrecomputedTeacher:
    """Finds outputs by an image's path, or by its row in the source."""

    def __init__(self, spec: Precomputed) -> None:
        """Read the table. Raises SpecError where a column is missing."""
        self._file = spec.file
        self._table = read_table(spec.file, "teacher.file")
        if not self._table.keys() & {"logits", "features"} or not self._table.keys() & {"path", "index"}:
            raise SpecError(
                f"teacher.file: '{spec.file}' needs the columns logits (or features) and path or index, "
                f"it has {', '.join(self._table)}."
            )

    def outputs(self, output_kind: OutputKind, data: Dataset) -> npt.NDArray[np.float32]:
        """Return float32 [N, classes] or [N, d] for the data's images, in their order.

        Raises SpecError where an image has no row or two rows, or a row has the wrong length.
        """
        if output_kind not in self._table:
            raise SpecError(f"teacher.file: '{self._file}' has no column {output_kind}, which strategy.loss needs.")
        positions = locate(self._table, data, f"teacher.file: '{self._file}'")
        known = positions >= 0
        if np.unique(positions[known], return_counts=True)[1].max(initial=1) > 1:
            raise SpecError(f"teacher.file: '{self._file}' has {output_kind} for the same image twice.")
        if known.sum() < len(data):
            raise SpecError(
                f"teacher.file: '{self._file}' has {output_kind} for {known.sum()} of the {len(data)} images of "
                f"{data.name}, not for {_first_missing(data, positions)}."
            )
        outputs = np.empty((len(data), self._width(output_kind)), dtype=np.float32)
        outputs[positions[known]] = self._stacked(output_kind, known)
        if output_kind == "logits" and outputs.shape[1] != len(data.classes):
            raise SpecError(
                f"teacher: '{self._file}' has logits {list(outputs.shape)}, but {data.name} needs "
                f"{[len(data), len(data.classes)]} (images x classes)."
            )
        if not np.isfinite(outputs).all():
            raise SpecError(f"teacher: '{self._file}' has {output_kind} that are not finite.")
        return outputs

    def _stacked(self, output_kind: OutputKind, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.generic]:
        """Returns the rows that are known, [n, width]. Raises SpecError unless they are lists of numbers."""
        with reading(f"teacher.file: '{self._file}'", f"has {output_kind} that are no lists of numbers"):
            stacked = np.stack(list(self._table[output_kind][known]))
            if stacked.ndim != 2 or stacked.dtype.kind not in "iuf":
                raise TypeError(f"they are of type {stacked.dtype}")
        return stacked

    def _width(self, output_kind: OutputKind) -> int:
        if not all(hasattr(row, "__len__") for row in self._table[output_kind]):
            raise SpecError(
                f"teacher.file: '{self._file}' must have a list of numbers in each row of its column {output_kind}."
            )
        lengths = {len(row) for row in self._table[output_kind]}
        if len(lengths) != 1:
            raise SpecError(f"teacher.file: '{self._file}' has {output_kind} of different lengths {sorted(lengths)}.")
        return int(lengths.pop())


def _first_missing(data: Dataset, positions: Indices) -> str:
    missing = np.setdiff1d(np.arange(len(data)), positions)[0]
    return f"row {data.rows[missing]}" if data.paths is None else f"'{data.paths[missing]}'"
