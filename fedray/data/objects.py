"""Data sets that are given as Python objects, or that a function outside the package returns.

| object | images | labels |
| --- | --- | --- |
| `(images, labels)`, `(images, labels, class_names)` | an array [N, H, W], [N, H, W, C] or [N, C, H, W] | [N] |
| a `torch.utils.data.Dataset` with a length | first of each item: an image of Pillow, an array, a tensor | second |
| a `datasets.Dataset` of Hugging Face | the column `image` or `img` | the column `label` or `fine_label` |

Arrays are uint8, or floating point from 0 to 1. Labels are numbers of classes, or names.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, InstanceOf, PlainSerializer, WithJsonSchema

from fedray.data.class_names import check_labels, number_labels
from fedray.data.dataset import Dataset, digest
from fedray.data.decoding import stack, to_square
from fedray.data.pixels import Pixels, rgb_pixels
from fedray.data.request import ReadRequest
from fedray.errors import SpecError

PREFIX = "memory:"
"""Prefix of the name of a data set that exists only in the program that created it."""
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "fine_label")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory. Sets with equal contents are equal, and have the digest of the contents as a name."""

    images: Sequence[Pixels] = field(repr=False)
    """[H, W] or [H, W, 3] each"""
    labels: Sequence[int] | Sequence[str] = field(repr=False)
    classes: tuple[str, ...] = ()
    """Class names, if there are any; labels are then their positions."""

    @cached_property
    def name(self) -> str:
        """`memory:` and the digest of the contents."""
        names = np.array([*map(str, self.labels), *self.classes])
        return f"{PREFIX}{digest(*self.images, names)[:16]}"

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageSet) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def read(self, request: ReadRequest) -> Dataset:
        """Return the chosen examples, resized if the request has a size. Raises SpecError."""
        texts = [label for label in self.labels if isinstance(label, str)]
        positions = [label for label in self.labels if not isinstance(label, str)]
        numbers, names = number_labels(texts) if texts else number_labels(positions)
        if self.classes:
            check_labels(positions, self.classes, request.field)
            numbers, names = np.array(positions, dtype=np.int64), self.classes
        rows = request.choose(numbers)
        images = stack([to_square(self.images[row], request.size) for row in rows], request.field)
        named = bool(self.classes or texts)
        return Dataset(self.name, images, numbers[rows], rows, None, names, named=named)


def as_source(found: object) -> object:
    """Return a data set as an `ImageSet`; strings and objects of other kinds unchanged. Raises ValueError."""
    if isinstance(found, tuple | list) and len(found) in (2, 3):
        images, labels, *classes = found
        return _image_set([*map(_pixels, _channels_last(np.asarray(images)))], labels, *classes)
    if hasattr(found, "column_names") and hasattr(found, "features"):
        return _of_hugging_face(found)
    if (
        hasattr(found, "__getitem__")
        and hasattr(found, "__len__")
        and not isinstance(found, str | Mapping | tuple | list | bytes)
    ):
        items = [_pair(found[index]) for index in range(len(found))]
        return _image_set([_pixels(item[0]) for item in items], [item[1] for item in items], _classes_of(found))
    return found


def _pair(item: object) -> tuple[object, object]:
    """Return an item of a data set as (image, label). Raises ValueError."""
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise ValueError(f"must have items of an image and a label; its first item is {str(item)[:100]}")
    return item[0], item[1]


Source = Annotated[
    str | InstanceOf[ImageSet],
    BeforeValidator(as_source),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]
"""The type of a field with the name of a source, or a data set."""


def _of_hugging_face(found: Any) -> ImageSet:
    image = next((name for name in IMAGE_COLUMNS if name in found.column_names), None)
    label = next((name for name in LABEL_COLUMNS if name in found.column_names), None)
    if image is None or label is None:
        raise ValueError(f"must have the columns image and label; it has {', '.join(found.column_names)}")
    images = [_pixels(row) for row in found[image]]
    return _image_set(images, found[label], getattr(found.features[label], "names", ()))


def _image_set(images: Sequence[Pixels], labels: Any, classes: Sequence[object] = ()) -> ImageSet:
    values = [_label(label) for label in labels]
    if len(values) != len(images) or not values:
        raise ValueError(f"must have one label for each image; it has {len(images)} images and {len(values)} labels")
    numbers, texts = [v for v in values if isinstance(v, int)], [v for v in values if isinstance(v, str)]
    if numbers and texts:
        raise ValueError("must have labels that are all numbers or all strings")
    return ImageSet(images, numbers or texts, tuple(map(str, classes)) if numbers else ())


def _label(label: object) -> int | str:
    if isinstance(label, str):
        return label
    try:
        return operator.index(label)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"must have numbers or strings as labels, not {label!s:.40}") from None


def _classes_of(found: object) -> Sequence[object]:
    classes = getattr(found, "classes", ())
    return classes if isinstance(classes, list | tuple) else ()


def _pixels(image: Any) -> Pixels:
    """Return an image of Pillow, an array or a tensor as uint8 [H, W] or [H, W, 3]."""
    if hasattr(image, "getbands"):
        return np.asarray(image) if image.mode == "L" else rgb_pixels(image)
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if np.issubdtype(array.dtype, np.floating) and array.size and array.min() >= 0 and array.max() <= 1:
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3)):
        raise ValueError(
            "must have images of uint8, or of floating point from 0 to 1, with 1 or 3 channels, "
            f"not {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)


def _channels_last(images: np.ndarray) -> np.ndarray:
    """Return [N, C, H, W] as [N, H, W, C]; other arrays unchanged."""
    is_first = images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[-1] not in (1, 3)
    return images.transpose(0, 2, 3, 1) if is_first else images


def read_object(found: object, request: ReadRequest) -> Dataset:
    """Read a data set that a function returned. Raises SpecError."""
    if isinstance(found, Dataset):
        return found.take(request.choose(found.labels))
    try:
        source = as_source(found)
    except ValueError as error:
        raise SpecError(f"{request.field}: a data set {error}") from None
    if not isinstance(source, ImageSet):
        raise SpecError(f"{request.field}: {type(found).__name__} is not a data set; return (images, labels).")
    return source.read(request)
