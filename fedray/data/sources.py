"""Where images come from. To add a source: a reader, and its line in `READERS`."""

import glob
import inspect
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.data.dataset import Dataset
from fedray.data.image_cache import cached_images
from fedray.errors import SpecError, nearest
from fedray.types import Indices

Side: TypeAlias = Literal["train", "test"]
Choose: TypeAlias = Callable[[Indices], Indices]
"""Given all labels, the positions of those to read: images left out are not decoded."""

DIGITS_TEST = 5
"""Of scikit-learn's digits, which have no test set of their own, every fifth of a class is test."""


def read(source: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    """Read one source, such as `digits`, `torchvision:CIFAR10` or `parquet:data/*.parquet`.

    `size` resizes (shorter side, then centre crop) to square images. Raises SpecError where the
    source does not exist, is damaged, or has images of several sizes while `size` is None.
    """
    kind, _, argument = source.partition(":")
    if kind not in READERS:
        raise SpecError(
            f"data.{side}: unknown source '{source}', known are {', '.join(READERS)}{nearest(kind, READERS)}"
        )
    if kind != "digits" and not argument:
        raise SpecError(f"data.{side}: '{source}' does not say which; write {kind}:NAME_OR_PATH.")
    return READERS[kind](argument, side, choose, size)


def _digits(_: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    pixels, labels = _scikit_learns_digits()
    nth = np.array([np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)])
    rows = np.flatnonzero((nth % DIGITS_TEST == 0) == (side == "test"))
    kept = rows[choose(labels[rows])]
    images = np.round(pixels[kept] * (255 / 16)).astype(np.uint8)
    pictures = [_square(image, size) for image in images]
    return Dataset("digits", _stack(pictures, side), labels[kept], kept, None, tuple("0123456789"))


@cache
def _scikit_learns_digits() -> tuple[npt.NDArray[np.float64], Indices]:
    """Pixels [1797, 8, 8] from 0 to 16, and labels. Importing scikit-learn would take 2 s."""
    package = find_spec("sklearn")
    assert package is not None, "it is installed with fedray"
    folder = next(iter(package.submodule_search_locations or ()))
    table = np.loadtxt(Path(folder) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _torchvision(argument: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    from torchvision import datasets

    known = [n for n in datasets.__all__ if inspect.isclass(getattr(datasets, n))]
    if argument not in known:
        raise SpecError(f"data.{side}: torchvision has no data set '{argument}'{nearest(argument, known)}")
    constructor = getattr(datasets, argument)
    options = {"train": side == "train"} if "train" in inspect.signature(constructor).parameters else {"split": side}
    root = Path(os.environ.get("FEDRAY_DATA", "~/.cache/fedray/data")).expanduser()
    try:
        data = constructor(str(root / argument), download=True, **options)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise SpecError(f"data.{side}: torchvision could not provide {argument} under {root} ({error}).") from error
    labels = np.asarray(
        [data[i][1] for i in range(len(data))] if _labels(data) is None else _labels(data), dtype=np.int64
    )
    kept = choose(labels)
    images = [_square(np.asarray(data[i][0]), size) for i in kept]
    classes = tuple(map(str, getattr(data, "classes", range(int(labels.max()) + 1))))
    return Dataset(argument, _stack(images, side), labels[kept], kept, None, classes)


def _parquet(argument: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted(glob.glob(str(Path(argument).expanduser())))  # noqa: PTH207  an absolute pattern, which Path.glob refuses
    if not names:
        raise SpecError(f"data.{side}: no file matches 'parquet:{argument}'.")
    try:
        files = [pq.ParquetFile(name) for name in names]
        image_column, label_column = _columns([file.schema_arrow for file in files], argument, side)
        labels = _integers([file.read(columns=[label_column]) for file in files], argument, side)
        kept = choose(labels)
        blobs, paths = _cells(files, image_column, kept)
    except (OSError, pa.ArrowException) as error:
        raise SpecError(f"data.{side}: '{argument}' cannot be read as parquet ({error}).") from error
    return Dataset(
        Path(argument).name,
        _decode(blobs, [path or f"row {row}" for path, row in zip(paths, kept, strict=True)], side, size),
        labels[kept],
        kept,
        None if None in paths else np.array(paths, dtype=np.str_),
        _class_names(files[0].schema_arrow, label_column, labels),
    )


def _columns(schemas: Sequence[Any], argument: str, side: Side) -> tuple[str, str]:
    """Those of images and labels, which all files have alike."""
    import pyarrow as pa

    image_column = _column(schemas[0], ("img", "image"), argument, side)
    label_column = _column(schemas[0], ("label", "fine_label"), argument, side)
    if not all(schema.equals(schemas[0]) for schema in schemas):
        raise SpecError(f"data.{side}: '{argument}' matches files with other columns than the first of them.")
    if not pa.types.is_integer(schemas[0].field(label_column).type):
        raise SpecError(f"data.{side}: '{argument}' has labels that are no integers in its column {label_column}.")
    if not pa.types.is_struct(schemas[0].field(image_column).type):
        raise SpecError(f"data.{side}: '{argument}' must have a struct of bytes and path in its column {image_column}.")
    return image_column, label_column


def _integers(tables: Sequence[Any], argument: str, side: Side) -> Indices:
    """The labels, by way of lists: pyarrow's own way to NumPy waits for pandas."""
    labels = [label for table in tables for label in table.column(0).to_pylist()]
    if None in labels:
        raise SpecError(f"data.{side}: '{argument}' has images without a label.")
    if not labels:
        raise SpecError(f"data.{side}: '{argument}' holds no images.")
    return np.array(labels, dtype=np.int64)


def _cells(files: Sequence[Any], column: str, rows: Indices) -> tuple[list[bytes], list[str | None]]:
    """The images' bytes and paths of some rows, read a few at a time."""
    blobs, paths = [b""] * len(rows), list[str | None]([None] * len(rows))
    order = np.argsort(rows)
    start = 0
    for batch in (batch for file in files for batch in file.iter_batches(4096, columns=[column])):
        first, last = np.searchsorted(rows[order], (start, start + len(batch)))
        images, names = (batch.column(0).field(part) for part in ("bytes", "path"))
        for place in order[first:last].tolist():
            row = int(rows[place]) - start
            blobs[place], paths[place] = images[row].as_py(), names[row].as_py()
        start += len(batch)
    return blobs, paths


def _folder(argument: str, side: Side, choose: Choose, size: int | None) -> Dataset:
    root = Path(argument).expanduser()
    classes = sorted(child.name for child in root.iterdir() if child.is_dir()) if root.is_dir() else []
    if not classes:
        raise SpecError(f"data.{side}: 'folder:{argument}' is not a folder with one folder of images per class.")
    files = [(f, label) for label, name in enumerate(classes) for f in sorted((root / name).iterdir()) if f.is_file()]
    if not files:
        raise SpecError(f"data.{side}: 'folder:{argument}' holds no images.")
    labels = np.array([label for _, label in files], dtype=np.int64)
    kept = choose(labels)
    paths = [str(files[i][0].relative_to(root)) for i in kept]
    images = _decode([(root / path).read_bytes() for path in paths], paths, side, size)
    return Dataset(root.name, images, labels[kept], kept, np.array(paths, dtype=np.str_), tuple(classes))


READERS: Mapping[str, Callable[[str, Side, Choose, int | None], Dataset]] = {
    "digits": _digits,
    "torchvision": _torchvision,
    "parquet": _parquet,
    "folder": _folder,
}


def _labels(data: Any) -> Any:
    """The labels that most torchvision sets keep beside the images, so that none need be decoded."""
    return next((v for v in (getattr(data, n, None) for n in ("targets", "labels", "_labels")) if v is not None), None)


def _column(schema: Any, names: Sequence[str], argument: str, side: Side) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise SpecError(f"data.{side}: '{argument}' has no column {' or '.join(names)}; it has {', '.join(schema.names)}.")


def _class_names(schema: Any, column: str, labels: Indices) -> tuple[str, ...]:
    """From the `huggingface` metadata where there is any, else the numbers."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = metadata.get("info", {}).get("features", {}).get(column, {}).get("names")
    return tuple(names) if names else tuple(map(str, range(int(labels.max()) + 1)))


AT_ONCE = 128
"""How many images a thread decodes before it asks for more."""
SMALL = 2**13
"""Bytes of an image up to which several threads are no faster than one: they mostly wait for Python's lock."""


def _decode(blobs: Sequence[bytes], names: Sequence[str | None], side: Side, size: int | None) -> npt.NDArray[np.uint8]:
    import PIL

    how = f"Pillow {PIL.__version__}, size {size}"
    return cached_images(blobs, how, lambda: _decode_each(blobs, names, side, size))


def _decode_each(
    blobs: Sequence[bytes], names: Sequence[str | None], side: Side, size: int | None
) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    def one(blob: bytes, name: str | None) -> npt.NDArray[np.uint8]:
        try:
            return _square(np.asarray(Image.open(io.BytesIO(blob)).convert("RGB")), size)
        except UnidentifiedImageError as error:
            raise SpecError(f"data.{side}: the image '{name}' cannot be decoded (no known image format).") from error
        except (OSError, TypeError, ValueError, SyntaxError) as error:  # Pillow raises all of them for damaged files
            raise SpecError(f"data.{side}: the image '{name}' cannot be decoded ({error}).") from error

    def some(start: int) -> list[npt.NDArray[np.uint8]]:
        part = slice(start, start + AT_ONCE)
        return list(map(one, blobs[part], names[part]))

    small = sum(map(len, blobs)) <= SMALL * len(blobs)
    with ThreadPoolExecutor(1 if small else os.cpu_count()) as threads:
        parts = threads.map(some, range(0, len(blobs), AT_ONCE))
        return _stack([image for part in parts for image in part], side)


def _square(image: npt.NDArray[np.uint8], size: int | None) -> npt.NDArray[np.uint8]:
    """[H, W] or [H, W, C] -> [C, H, W], or [C, size, size] where a size is wanted."""
    if size is not None and image.shape[:2] != (size, size):
        from PIL import Image, ImageOps

        image = np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BICUBIC))
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _stack(images: Sequence[npt.NDArray[np.uint8]], side: Side) -> npt.NDArray[np.uint8]:
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1 or shapes[0][1] != shapes[0][2]:
        raise SpecError(
            f"data.{side}: images are not all square and of one size ({shapes[0]}, {shapes[-1]}, ...); set data.size."
        )
    return np.ascontiguousarray(np.stack(images))
