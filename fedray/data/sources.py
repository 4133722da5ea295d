"""Image sources. To add a source, write a reader and add it to `READERS`."""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedray.data.class_names import check_labels, check_names, number_labels
from fedray.data.dataset import Dataset
from fedray.data.decoding import stack, to_square
from fedray.data.folder import read_folder
from fedray.data.parquet import read_parquet
from fedray.data.pixels import Pixels, rgb_pixels
from fedray.data.request import Choose, ReadRequest, Side, reading
from fedray.errors import SpecError, nearest
from fedray.types import Indices

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset

DIGITS_TEST_STRIDE = 5
"""Every fifth image of a class of scikit-learn's digits is a test image: the set has no split of its own."""


def read(
    source: str,
    side: Side,
    choose: Choose,
    size: int | None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """Read one source, such as `digits`, `torchvision:CIFAR10` or `parquet:data/*.parquet`.

    If `size` is given, images are resized (shorter side, then centre crop) to `size` pixels a side. Both columns are
    those of a table. Raises SpecError if the source is missing or damaged, or if images differ in size and `size` is
    None.
    """
    kind, _, argument = source.partition(":")
    if kind not in READERS:
        raise SpecError(
            f"data.{side}: unknown source '{source}'; use one of {', '.join(READERS)}{nearest(kind, READERS)}"
        )
    if kind != "digits" and not argument:
        raise SpecError(f"data.{side}: '{source}' names no data set; write {kind}:NAME_OR_PATH.")
    request = ReadRequest(side, choose, size, image_column, label_column)
    with reading(f"{request.field}: '{source}'"):
        return check_names(READERS[kind](argument, request), request.field)


def _digits(_: str, request: ReadRequest) -> Dataset:
    pixels, labels = _load_digits()
    rank_in_class = np.array([np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)])
    rows = np.flatnonzero((rank_in_class % DIGITS_TEST_STRIDE == 0) == (request.side == "test"))
    rows = rows[request.choose(labels[rows])]
    images = np.round(pixels[rows] * (255 / 16)).astype(np.uint8)
    squares = [to_square(image, request.size) for image in images]
    return Dataset("digits", stack(squares, request.field), labels[rows], rows, None, tuple("0123456789"))


@cache
def _load_digits() -> tuple[npt.NDArray[np.float64], Indices]:
    """Returns pixels [1797, 8, 8] from 0 to 16, and labels, from scikit-learn's file; importing it takes 2 s."""
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a dependency of fedray"
    folder = next(iter(package.submodule_search_locations or ()))
    table = np.loadtxt(Path(folder) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _torchvision(argument: str, request: ReadRequest) -> Dataset:
    data = _load_torchvision(argument, request)
    with reading(f"{request.field}: the labels of torchvision's {argument}"):
        values = _torchvision_labels(data).tolist()
        classes = tuple(map(str, getattr(data, "classes", ())))
        labels, numbers = number_labels(values)
        if classes:
            check_labels(values, classes, request.field)
            labels = np.array(values, dtype=np.int64)
    rows = request.choose(labels)
    images = [_torchvision_image(data, int(row), argument, request) for row in rows]
    named = bool(classes)
    return Dataset(
        argument, stack(images, request.field), labels[rows], rows, None, classes if named else numbers, named=named
    )


def _load_torchvision(argument: str, request: ReadRequest) -> "VisionDataset":
    """Returns torchvision's data set, which is downloaded if it is missing."""
    from torchvision import datasets

    members = vars(datasets)
    known = [name for name in datasets.__all__ if inspect.isclass(members[name])]
    if argument not in known:
        raise SpecError(f"{request.field}: torchvision has no data set '{argument}'{nearest(argument, known)}")
    has_train = "train" in inspect.signature(members[argument]).parameters
    options = {"train": request.side == "train"} if has_train else {"split": request.side}
    root = Path(os.environ.get("FEDRAY_DATA", "~/.cache/fedray/data")).expanduser()
    with reading(f"{request.field}: torchvision", f"could not load {argument} from {root}"):
        data: VisionDataset = members[argument](str(root / argument), download=True, **options)
    return data


def _torchvision_image(data: "VisionDataset", row: int, argument: str, request: ReadRequest) -> Pixels:
    """Returns an image, uint8 [C, H, W]; gray images keep one channel."""
    with reading(f"{request.field}: image {row} of torchvision's {argument}", "cannot be decoded"):
        image = data[row][0]
        return to_square(np.asarray(image) if image.mode == "L" else rgb_pixels(image), request.size)


READERS: Mapping[str, Callable[[str, ReadRequest], Dataset]] = {
    "digits": _digits,
    "torchvision": _torchvision,
    "parquet": read_parquet,
    "folder": read_folder,
}


def _torchvision_labels(data: "VisionDataset") -> Indices:
    """Returns all labels, without decoding images if the set has them in an attribute, as most do."""
    attributes = (getattr(data, name, None) for name in ("targets", "labels", "_labels"))
    labels = next((labels for labels in attributes if labels is not None), None)
    return np.asarray([data[i][1] for i in range(len(data))] if labels is None else labels, dtype=np.int64)
