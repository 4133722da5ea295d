"""Labels of parquet tables: integers, booleans, integral floats and text, and Hugging Face's class names."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fedray.data.class_names import check_labels, number_labels
from fedray.data.request import reading
from fedray.errors import SpecError
from fedray.types import Indices

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

LabelColumn: TypeAlias = tuple[Path, "pq.ParquetFile", str]
"""The path of a file, the opened file and the name of its label column."""
Classes: TypeAlias = tuple[str, ...]
Label: TypeAlias = bool | int | float | str


def read_labels(columns: Sequence[LabelColumn], field: str) -> tuple[Indices, Classes, bool]:
    """Returns the labels of all files, the classes, and whether the classes have names.

    The classes are Hugging Face's class names or else the distinct labels. Raises SpecError for labels that are
    missing, or of a type that is none of these.
    """
    values = [_values(path, file, column, field) for path, file, column in columns]
    paths = [path for path, _, _ in columns]
    if not any(values):
        raise SpecError(f"{field}: '{paths[0]}' has no images.")
    kinds = {_kind(part): path for part, path in reversed([*zip(values, paths, strict=True)]) if part}
    if "text" in kinds and len(kinds) > 1:
        other = next(path for kind, path in kinds.items() if kind != "text")
        raise SpecError(f"{field}: the labels of '{kinds['text']}' are text, but those of '{other}' are numbers.")
    if "text" in kinds:
        return *number_labels([str(value) for part in values for value in part]), True
    names = [_class_names(path, file, column, field) for path, file, column in columns]
    if any(names):
        return *_with_names(values, names, field), True
    numbers = [int(value) for part in values for value in part]
    if min(numbers) < 0:
        raise SpecError(f"{field}: labels must not be negative; the smallest is {min(numbers)}.")
    if {*kinds} == {"boolean"}:
        return *number_labels([str(bool(number)) for number in numbers]), True
    return *number_labels(numbers), False


def _values(path: Path, file: "pq.ParquetFile", column: str, field: str) -> list[Label]:
    """Returns the labels of one file, through a list: pyarrow's conversion to NumPy imports pandas."""
    kind = file.schema_arrow.field(column).type
    with reading(f"{field}: '{path}'", "cannot be read as parquet"):
        values: list[Label] = file.read(columns=[column]).column(0).to_pylist()
    missing = next((row for row, value in enumerate(values) if value is None or value != value), None)
    if missing is not None:
        raise SpecError(f"{field}: '{path}' has images without a label in its column {column}; the first is {missing}.")
    if not _is_plain(kind) or not all(_is_whole(value) for value in values):
        raise SpecError(
            f"{field}: '{path}' has labels of type {kind} in its column {column}; "
            "labels must be integers, booleans, whole numbers or text."
        )
    return values


def _is_plain(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_number = pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_boolean(value)
    return bool(is_number or str(value) in ("string", "large_string", "string_view", "null"))


def _is_whole(value: object) -> bool:
    return not isinstance(value, float) or value.is_integer()


def _kind(values: Sequence[object]) -> str:
    if isinstance(values[0], str):
        return "text"
    return "boolean" if isinstance(values[0], bool) else "number"


def _with_names(values: Sequence[Sequence[Label]], names: Sequence[Classes], field: str) -> tuple[Indices, Classes]:
    """Returns labels and classes of files of which some have class names; the others' labels are positions in these.

    Files with different names are matched by name, if no file has two classes of one name.
    """
    first = next(part for part in names if part)
    classes = list(first)
    labels = []
    for part, own in zip(values, names, strict=True):
        numbers = [int(value) for value in part]
        if numbers:
            check_labels(numbers, own or first, field)
        if own and own != first:
            classes += [name for name in own if name not in classes]
            positions = np.array([classes.index(name) for name in own])
            labels.append(positions[np.array(numbers, dtype=np.int64)])
        else:
            labels.append(np.array(numbers, dtype=np.int64))
    return np.concatenate(labels), tuple(classes)


def _class_names(path: Path, file: "pq.ParquetFile", column: str, field: str) -> Classes:
    """Returns the class names of the `huggingface` metadata; empty without any."""
    content = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    with reading(f"{field}: the Hugging Face metadata of '{path}'"):
        feature = json.loads(content).get("info", {}).get("features", {}).get(column) or {}
        names = feature.get("names") or ()
        if not isinstance(names, list | tuple):
            raise SpecError(f"{field}: the Hugging Face metadata of '{path}' must list the names of classes.")
    return tuple(map(str, names))
