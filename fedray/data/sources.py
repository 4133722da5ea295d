"""Image sources. To add a source, write a reader and add it to `READERS`."""

import glob
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.data.dataset import Dataset
from fedray.data.decoding import decode, stack, to_square
from fedray.errors import SpecError, nearest
from fedray.types import Indices

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from torchvision.datasets import VisionDataset

Side: TypeAlias = Literal["train", "test"]
Choose: TypeAlias = Callable[[Indices], Indices]
"""Maps all labels of a source to the positions to read; other images are not decoded."""

DIGITS_TEST_STRIDE = 5
"""Every fifth image of a class of scikit-learn's digits is a test image: the set has no split of its own."""


def read(source: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    """Read one source, such as `digits`, `torchvision:CIFAR10` or `parquet:data/*.parquet`.

    If `size` is given, images are resized (shorter side, then centre crop) to `size` pixels a side. Raises SpecError
    if the source is missing or damaged, or if images differ in size and `size` is None.
    """
    kind, _, argument = source.partition(":")
    if kind not in READERS:
        raise SpecError(
            f"data.{side}: unknown source '{source}'; use one of {', '.join(READERS)}{nearest(kind, READERS)}"
        )
    if kind != "digits" and not argument:
        raise SpecError(f"data.{side}: '{source}' names no data set; write {kind}:NAME_OR_PATH.")
    return READERS[kind](argument, side, choose, size)


def _digits(_: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    pixels, labels = _load_digits()
    rank_in_class = np.array([np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)])
    rows = np.flatnonzero((rank_in_class % DIGITS_TEST_STRIDE == 0) == (side == "test"))
    rows = rows[choose(labels[rows])]
    images = np.round(pixels[rows] * (255 / 16)).astype(np.uint8)
    squares = [to_square(image, size) for image in images]
    return Dataset("digits", stack(squares, f"data.{side}"), labels[rows], rows, None, tuple("0123456789"))


@cache
def _load_digits() -> tuple[npt.NDArray[np.float64], Indices]:
    """Returns pixels [1797, 8, 8] from 0 to 16, and labels, from scikit-learn's file; importing it takes 2 s."""
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a dependency of fedray"
    folder = next(iter(package.submodule_search_locations or ()))
    table = np.loadtxt(Path(folder) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _torchvision(argument: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    from torchvision import datasets

    known = [name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name))]
    if argument not in known:
        raise SpecError(f"data.{side}: torchvision has no data set '{argument}'{nearest(argument, known)}")
    constructor = getattr(datasets, argument)
    options = {"train": side == "train"} if "train" in inspect.signature(constructor).parameters else {"split": side}
    root = Path(os.environ.get("FEDRAY_DATA", "~/.cache/fedray/data")).expanduser()
    try:
        data = constructor(str(root / argument), download=True, **options)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise SpecError(f"data.{side}: torchvision could not load {argument} from {root} ({error}).") from error
    labels = _torchvision_labels(data)
    rows = choose(labels)
    images = [to_square(np.asarray(data[row][0]), size) for row in rows]
    classes = tuple(map(str, getattr(data, "classes", range(int(labels.max()) + 1))))
    return Dataset(argument, stack(images, f"data.{side}"), labels[rows], rows, None, classes)


def _parquet(argument: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted(glob.glob(str(Path(argument).expanduser())))  # noqa: PTH207  Path.glob refuses absolute patterns
    if not names:
        raise SpecError(f"data.{side}: no file matches 'parquet:{argument}'.")
    try:
        files = [pq.ParquetFile(name) for name in names]
        image_column, label_column = _columns([file.schema_arrow for file in files], argument, side)
        labels = _integers([file.read(columns=[label_column]) for file in files], argument, side)
        rows = choose(labels)
        blobs, paths = _read_images(files, image_column, rows)
    except (OSError, pa.ArrowException) as error:
        raise SpecError(f"data.{side}: '{argument}' cannot be read as parquet ({error}).") from error
    return Dataset(
        Path(argument).name,
        decode(blobs, [path or f"row {row}" for path, row in zip(paths, rows, strict=True)], f"data.{side}", size),
        labels[rows],
        rows,
        None if None in paths else np.array(paths, dtype=np.str_),
        _class_names(files[0].schema_arrow, label_column, labels),
    )


def _columns(schemas: Sequence["pa.Schema"], argument: str, side: Side) -> tuple[str, str]:
    """Returns the names of the image and the label column. Raises SpecError unless all files have the same columns."""
    import pyarrow as pa

    image_column = _column(schemas[0], ("img", "image"), argument, side)
    label_column = _column(schemas[0], ("label", "fine_label"), argument, side)
    if not all(schema.equals(schemas[0]) for schema in schemas):
        raise SpecError(f"data.{side}: '{argument}' matches files whose columns differ.")
    if not pa.types.is_integer(schemas[0].field(label_column).type):
        raise SpecError(f"data.{side}: '{argument}' must have integers in its column {label_column}.")
    if not pa.types.is_struct(schemas[0].field(image_column).type):
        raise SpecError(f"data.{side}: '{argument}' must have a struct of bytes and path in its column {image_column}.")
    return image_column, label_column


def _integers(tables: Sequence["pa.Table"], argument: str, side: Side) -> Indices:
    """Returns the labels, converted through lists: pyarrow's conversion to NumPy imports pandas."""
    labels = [label for table in tables for label in table.column(0).to_pylist()]
    if None in labels:
        raise SpecError(f"data.{side}: '{argument}' has images without a label.")
    if not labels:
        raise SpecError(f"data.{side}: '{argument}' has no images.")
    return np.array(labels, dtype=np.int64)


def _read_images(files: Sequence["pq.ParquetFile"], column: str, rows: Indices) -> tuple[list[bytes], list[str | None]]:
    """Returns the encoded images and the paths of these rows, read in batches of 4096 rows."""
    blobs, paths = [b""] * len(rows), list[str | None]([None] * len(rows))
    order = np.argsort(rows)
    start = 0
    for batch in (batch for file in files for batch in file.iter_batches(4096, columns=[column])):
        first, last = np.searchsorted(rows[order], (start, start + len(batch)))
        images, names = (batch.column(0).field(part) for part in ("bytes", "path"))
        for position in order[first:last].tolist():
            row = int(rows[position]) - start
            blobs[position], paths[position] = images[row].as_py(), names[row].as_py()
        start += len(batch)
    return blobs, paths


def _folder(argument: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    root = Path(argument).expanduser()
    classes = sorted(child.name for child in root.iterdir() if child.is_dir()) if root.is_dir() else []
    if not classes:
        raise SpecError(f"data.{side}: 'folder:{argument}' is not a folder with one folder of images per class.")
    files = [(f, label) for label, name in enumerate(classes) for f in sorted((root / name).iterdir()) if f.is_file()]
    if not files:
        raise SpecError(f"data.{side}: 'folder:{argument}' has no images.")
    labels = np.array([label for _, label in files], dtype=np.int64)
    rows = choose(labels)
    paths = [str(files[row][0].relative_to(root)) for row in rows]
    images = decode([(root / path).read_bytes() for path in paths], paths, f"data.{side}", size)
    return Dataset(root.name, images, labels[rows], rows, np.array(paths, dtype=np.str_), tuple(classes))


READERS: Mapping[str, Callable[[str, Side, Choose, int | None], Dataset]] = {
    "digits": _digits,
    "torchvision": _torchvision,
    "parquet": _parquet,
    "folder": _folder,
}


def _torchvision_labels(data: "VisionDataset") -> Indices:
    """Returns all labels, without decoding images if the set has them in an attribute, as most do."""
    attributes = (getattr(data, name, None) for name in ("targets", "labels", "_labels"))
    labels = next((labels for labels in attributes if labels is not None), None)
    return np.asarray([data[i][1] for i in range(len(data))] if labels is None else labels, dtype=np.int64)


def _column(schema: "pa.Schema", names: Sequence[str], argument: str, side: Side) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise SpecError(f"data.{side}: '{argument}' has no column {' or '.join(names)}; it has {', '.join(schema.names)}.")


def _class_names(schema: "pa.Schema", column: str, labels: Indices) -> tuple[str, ...]:
    """Returns the class names of the `huggingface` metadata, or else the labels as text."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = metadata.get("info", {}).get("features", {}).get(column, {}).get("names")
    return tuple(names) if names else tuple(map(str, range(int(labels.max()) + 1)))
