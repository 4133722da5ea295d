"""Decodes images, resizes them to squares and stacks them to one array."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fedray.data.image_cache import cached_images
from fedray.data.pixels import CONVERSION_VERSION, Pixels, rgb_pixels
from fedray.data.request import reading
from fedray.errors import SpecError

DECODE_CHUNK_IMAGES = 128
"""Images that a thread decodes at a time."""
SMALL_IMAGE_BYTES = 2**13
"""Mean size of an encoded image up to which several threads are no faster than one, because of the GIL."""


def decode(
    blobs: Sequence[bytes], names: Sequence[str | None], field: str, size: int | None, notes: list[str]
) -> Pixels:
    """Decode images (JPEG, PNG ...) to uint8 [N, 3, size, size], from the cache if possible.

    A clause on damaged files of the cache is appended to `notes`.
    Raises SpecError, starting with `field` and naming the image, if one is damaged or not square and `size` is None.
    """
    import PIL

    settings = f"Pillow {PIL.__version__}, conversion {CONVERSION_VERSION}, size {size}"
    return cached_images(blobs, settings, lambda: _decode_uncached(blobs, names, field, size), notes.append)


def to_square(image: Pixels, size: int | None) -> Pixels:
    """Converts [H, W] or [H, W, C] to [C, H, W], resized to [C, size, size] if `size` is given."""
    if size is not None and image.shape[:2] != (size, size):
        from PIL import Image, ImageOps

        image = np.asarray(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BICUBIC))
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def stack(images: Sequence[Pixels], field: str) -> Pixels:
    """Stacks images [C, S, S] to [N, C, S, S]. Raises SpecError unless they are square and of one size."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1 or shapes[0][1] != shapes[0][2]:
        examples = " and ".join(str(shape) for shape in dict.fromkeys((shapes[0], shapes[-1])))
        raise SpecError(f"{field}: images must all be square and of one size, not {examples}; set data.size.")
    return np.ascontiguousarray(np.stack(images))


def _decode_uncached(blobs: Sequence[bytes], names: Sequence[str | None], field: str, size: int | None) -> Pixels:
    def decode_chunk(start: int) -> list[Pixels]:
        chunk = slice(start, start + DECODE_CHUNK_IMAGES)
        return [_decode_image(blob, name, field, size) for blob, name in zip(blobs[chunk], names[chunk], strict=True)]

    small = sum(map(len, blobs)) <= SMALL_IMAGE_BYTES * len(blobs)
    with ThreadPoolExecutor(1 if small else os.cpu_count()) as threads:
        chunks = threads.map(decode_chunk, range(0, len(blobs), DECODE_CHUNK_IMAGES))
        return stack([image for chunk in chunks for image in chunk], field)


def _decode_image(blob: bytes, name: str | None, field: str, size: int | None) -> Pixels:
    from PIL import Image, UnidentifiedImageError

    with reading(f"{field}: the image '{name}'", "cannot be decoded"):
        try:
            image = Image.open(io.BytesIO(blob))
        except UnidentifiedImageError as error:  # its message is the repr of the stream
            raise SpecError(f"{field}: the image '{name}' cannot be decoded (no known image format).") from error
        return to_square(rgb_pixels(image), size)
