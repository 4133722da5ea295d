"""Parquet tables of images and labels, in the Hugging Face layout or with plain columns."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedray.data.dataset import Dataset
from fedray.data.decoding import decode
from fedray.data.parquet_labels import read_labels
from fedray.data.request import LeftOut, ReadRequest, reading
from fedray.errors import SpecError
from fedray.files import refuse_pipe
from fedray.types import Indices

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 4096
BYTES_TYPES = ("binary", "large_binary", "binary_view", "null")
TEXT_TYPES = ("string", "large_string", "string_view", "null")


@dataclass(frozen=True)
class TableFile:
    """One opened parquet file."""

    path: Path
    table: "pq.ParquetFile"
    image_column: str
    label_column: str


def read_parquet(argument: str, request: ReadRequest) -> Dataset:
    """Read the images and labels of the files that a path or pattern matches; `**` matches folders of any depth.

    Images are encoded bytes, or paths relative to the folder of their file.
    """
    left_out = LeftOut()
    files = [_open(path, request) for path in _matching(argument, request, left_out)]
    labels, classes, named = read_labels([(file.path, file.table, file.label_column) for file in files], request.field)
    rows = request.choose(labels)
    blobs, paths = _read_images(files, rows, request.field)
    names = [path or f"row {row}" for path, row in zip(paths, rows, strict=True)]
    notes = [*left_out.notes(request.field, f"parquet:{argument}")]
    return Dataset(
        Path(argument).name,
        decode(blobs, names, request.field, request.size, notes),
        labels[rows],
        rows,
        None if None in paths else np.array(paths, dtype=np.str_),
        classes,
        named=named,
        left_out=tuple(notes),
    )


def image_paths(argument: str, request: ReadRequest) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each file of a source with the images that it names by path; whether these exist is not checked."""
    for path in _matching(argument, request, LeftOut()):
        file = _open(path, request)
        kind = file.table.schema_arrow.field(file.image_column).type
        names = [part.name for part in kind] if str(kind).startswith("struct") else []
        if "path" not in names and not _is_text(kind):
            yield path, []
            continue
        column = file.table.read([f"{file.image_column}.path" if names else file.image_column]).column(0)
        cells = [cell.get("path") if isinstance(cell, dict) else cell for cell in column.to_pylist()]
        yield path, [path.parent / cell for cell in cells if isinstance(cell, str) and cell]


def _matching(argument: str, request: ReadRequest, left_out: LeftOut) -> list[Path]:
    """Returns the files that a path or pattern matches. The part of it that exists is taken literally."""
    with reading(f"{request.field}: 'parquet:{argument}'"):
        pattern = Path(argument).expanduser()
        root = next(folder for folder in (pattern, *pattern.parents) if folder.exists() or folder == folder.parent)
        if root == pattern and root.is_dir():
            raise SpecError(f"{request.field}: '{argument}' is a folder; write parquet:{argument}/*.parquet.")
        rest = str(pattern.relative_to(root))
        names = [str(root)] if root == pattern else [str(root / name) for name in _glob(rest, root)]
        files = [Path(name) for name in sorted(names)]
        for folder in (file for file in files if file.is_dir()):
            left_out.add("folders", str(folder))
        files = [file for file in files if not file.is_dir()]
    if not files:
        raise SpecError(f"{request.field}: no file matches 'parquet:{argument}'.")
    return files


def _glob(pattern: str, root: Path) -> set[str]:
    return set(glob.glob(pattern, root_dir=root, recursive=True))  # noqa: PTH207  Path.glob cannot be given a root


def _open(path: Path, request: ReadRequest) -> TableFile:
    import pyarrow.parquet as pq

    with reading(f"{request.field}: '{path}'", "cannot be read as parquet"):
        refuse_pipe(path)
        table = pq.ParquetFile(path)
        names = table.schema_arrow.names
        image_column = _column(names, request.image_column, ("img", "image"), path, request.field)
        label_column = _column(names, request.label_column, ("label", "fine_label"), path, request.field)
        _check_image_type(table.schema_arrow, image_column, path, request.field)
    return TableFile(path, table, image_column, label_column)


def _column(names: Sequence[str], chosen: str | None, usual: Sequence[str], path: Path, field: str) -> str:
    """Returns the chosen column or the first of the usual ones."""
    wanted = (chosen,) if chosen is not None else usual
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise SpecError(f"{field}: '{path}' has no column {' or '.join(wanted)}; it has {', '.join(names)}.")
    if names.count(found) > 1:
        raise SpecError(f"{field}: '{path}' has several columns {found}.")
    return found


def _check_image_type(schema: "pa.Schema", column: str, path: Path, field: str) -> None:
    import pyarrow as pa

    kind = schema.field(column).type
    parts = {part.name: part.type for part in kind} if pa.types.is_struct(kind) else {"bytes": kind, "path": kind}
    if not pa.types.is_struct(kind):
        is_valid = _is_bytes(kind) or _is_text(kind)
    else:
        is_valid = bool(parts.keys() & {"bytes", "path"})
        is_valid = is_valid and all(_is_bytes(parts[name]) for name in ("bytes",) if name in parts)
        is_valid = is_valid and all(_is_text(parts[name]) for name in ("path",) if name in parts)
    if not is_valid:
        raise SpecError(
            f"{field}: '{path}' has {kind} in its column {column}; images must be encoded bytes, paths (text), or a "
            "struct of bytes and path."
        )


def _is_bytes(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    name = str(kind.value_type if pa.types.is_dictionary(kind) else kind)
    return name in BYTES_TYPES or pa.types.is_fixed_size_binary(kind)


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return str(kind.value_type if pa.types.is_dictionary(kind) else kind) in TEXT_TYPES


def _read_images(files: Sequence[TableFile], rows: Indices, field: str) -> tuple[list[bytes], list[str | None]]:
    """Returns the encoded images and the paths of these rows."""
    blobs, paths = [b""] * len(rows), list[str | None]([None] * len(rows))
    order = np.argsort(rows)
    start = 0
    for file, batch in _image_batches(files, field):
        first, last = np.searchsorted(rows[order], (start, start + len(batch)))
        for position in order[first:last].tolist():
            row = int(rows[position])
            with reading(f"{field}: the image of row {row} in '{file.path}'"):
                content, path = _parts(batch[row - start].as_py())
            paths[position] = path
            blobs[position] = content if content is not None else _read_file(file.path, path, row, field)
        start += len(batch)
    return blobs, paths


def _image_batches(files: Sequence[TableFile], field: str) -> Iterator[tuple[TableFile, "pa.Array"]]:
    for file in files:
        with reading(f"{field}: '{file.path}'", "cannot be read as parquet"):
            for batch in file.table.iter_batches(BATCH_ROWS, columns=[file.image_column]):
                yield file, batch.column(0)


def _parts(cell: object) -> tuple[bytes | None, str | None]:
    """Returns the bytes and the path of an image cell."""
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path")
    return (None, cell) if isinstance(cell, str) else (cell if isinstance(cell, bytes) else None, None)


def _read_file(table: Path, path: str | None, row: int, field: str) -> bytes:
    """Read an image whose path is relative to the folder of its table."""
    if not path:
        raise SpecError(f"{field}: '{table}' has neither bytes nor a path for the image of row {row}.")
    with reading(f"{field}: the image '{path}', relative to '{table.parent}',"):
        refuse_pipe(table.parent / path)
        return (table.parent / path).read_bytes()
