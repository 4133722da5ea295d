"""Small image sets for tests, in memory and on disk."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fedray.data.dataset import Dataset
from fedray.types import Indices

Pixels = npt.NDArray[np.uint8]


def picture(seed: int, size: int = 8, channels: int = 3) -> Pixels:
    """A random image: uint8 [size, size, 3], or [size, size] if `channels` is 1."""
    shape = (size, size, 3) if channels == 3 else (size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(image: Pixels) -> bytes:
    """The image as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def dataset(labels: Indices, channels: int = 3, size: int = 8, *, paths: bool = True) -> Dataset:
    """Random images with these labels. Rows start at 100, so that rows differ from positions."""
    count = len(labels)
    images = np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    names = np.array([f"{i}.png" for i in range(count)])
    classes = tuple(f"class {c}" for c in range(int(labels.max()) + 1))
    return Dataset("images", images, labels, np.arange(count) + 100, names if paths else None, classes)


def write_parquet(
    file: Path,
    blobs: Sequence[bytes],
    labels: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    paths: Sequence[str | None] | None = None,
    image: str = "img",
    label: str = "label",
) -> None:
    """Write an image set in the Hugging Face layout; `names` are the class names in its metadata."""
    paths = paths if paths is not None else [f"{file.stem}-{i}.png" for i in range(len(blobs))]
    cells = pa.array(
        [{"bytes": blob, "path": path} for blob, path in zip(blobs, paths, strict=True)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({image: cells, label: pa.array(labels, pa.int64())})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)


def write_folder(root: Path, classes: Sequence[str], per_class: int, size: int = 8) -> None:
    """Write `per_class` PNG files per class; image i of class c is `picture(100 * c + i)`."""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            (root / name / f"{i}.png").write_bytes(png(picture(100 * c + i, size)))
