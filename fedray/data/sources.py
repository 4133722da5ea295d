"""Image sources. To add a source, write a reader and add it to `READERS`.

A reader outside the package is a function `(argument, request)` that returns a whole data set in one of the forms of
`data.objects`; limits and sizes are applied to it afterwards.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from types import FunctionType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedray.data.class_names import check_labels, check_names, number_labels
from fedray.data.dataset import Dataset
from fedray.data.decoding import stack, to_square
from fedray.data.folder import read_folder
from fedray.data.objects import PREFIX, ImageSet, read_object
from fedray.data.parquet import read_parquet
from fedray.data.pixels import Pixels, rgb_pixels
from fedray.data.request import Choose, ReadRequest, Side, reading
from fedray.data.stamps import digits_file, source_stamp, torchvision_folder
from fedray.errors import SpecError, nearest
from fedray.registry import REFERENCE, load_object
from fedray.types import Indices

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset

DIGITS_TEST_STRIDE = 5
"""Every fifth image of a class of scikit-learn's digits is a test image: the set has no split of its own."""


def read(
    source: str | ImageSet,
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
    request = ReadRequest(side, choose, size, image_column, label_column)
    if isinstance(source, ImageSet):
        return check_names(source.read(request), request.field)
    if source.startswith(PREFIX):
        raise SpecError(f"data.{side}: '{source}' exists only in the program that made it; run that program again.")
    if (outside := outside_reader(source, f"data.{side}: ")) is not None:
        with reading(f"{request.field}: '{source}'"):
            return check_names(read_object(outside[0](outside[1], request), request), request.field)
    kind, _, argument = source.partition(":")
    if kind not in READERS:
        raise SpecError(
            f"data.{side}: unknown source '{source}'; use one of {', '.join(READERS)}{nearest(kind, READERS)}"
        )
    if kind != "digits" and not argument:
        raise SpecError(f"data.{side}: '{source}' names no data set; write {kind}:NAME_OR_PATH.")
    stamp = source_stamp(source, request)  # before reading, so that a later change differs from it
    with reading(f"{request.field}: '{source}'"):
        return replace(check_names(READERS[kind](argument, request), request.field), stamp=stamp)


def outside_reader(source: str, prefix: str = "") -> tuple[FunctionType, str] | None:
    """Return the reader outside the package that a source names, and its argument; None if it names none.

    Raises SpecError, starting with `prefix`, if it is not a function.
    """
    kind, _, rest = source.partition(":")
    if kind in READERS:
        return None
    points = {point.name: point.value for point in entry_points(group="fedray.sources")}
    name, _, argument = rest.partition(":")
    reference, argument = (points[kind], rest) if kind in points else (f"{kind}:{name}", argument)
    if not REFERENCE.fullmatch(reference):
        return None
    try:
        found = load_object(reference)
    except SpecError as error:
        if nearest(kind, READERS) and "." not in kind:
            return None  # a misspelt kind
        raise SpecError(f"{prefix}'{source}' cannot be read: {error}") from None
    if not isinstance(found, FunctionType):
        raise SpecError(f"{prefix}'{reference}' must be a function that returns a data set.")
    return found, argument


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
    table = np.loadtxt(digits_file(), delimiter=",")
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
    known = [name for name in datasets.__all__ if inspect.isclass(members.get(name))]
    if argument not in known:
        raise SpecError(f"{request.field}: torchvision has no data set '{argument}'{nearest(argument, known)}")
    has_train = "train" in inspect.signature(members[argument]).parameters
    options = {"train": request.side == "train"} if has_train else {"split": request.side}
    root = torchvision_folder(argument)
    with reading(f"{request.field}: torchvision", f"could not load {argument} from {root.parent}"):
        data: VisionDataset = members[argument](str(root), download=True, **options)
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
