"""A cache of decoded images on disk. Decoding takes most of the time of reading a data set.

$FEDRAY_CACHE/images/HASH.safetensors    `images`, uint8 [n, C, S, S], and `key`, the HASH, with their checksum

HASH covers the encoded images, the decoder and the size.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedray.cache import cache_folder
from fedray.files import remove_stale_partials, replacing, this_process
from fedray.models.weights import WeightsFile, save_weights

MIN_IMAGES = 1000
"""Smaller sets are not cached: decoding them takes about as long as reading the cache."""
MAX_FILE_BYTES = 2**30
"""Larger sets are not cached."""
IMAGE_CACHE_BYTES = 4 * 2**30
"""Size of the whole cache; the least recently used sets are deleted first."""

Images = npt.NDArray[np.uint8]


def cached_images(
    blobs: Sequence[bytes], settings: str, decode: Callable[[], Images], report: Callable[[str], None]
) -> Images:
    """Returns the decoded images (uint8 [n, C, S, S]) from the cache, or else from `decode`, and caches them.

    `settings` names whatever else decides the result, such as the decoder's version. A damaged file is passed to
    `report` in one clause, and replaced. A cache folder that cannot be written is ignored.
    """
    if len(blobs) < MIN_IMAGES:
        return decode()
    file = cache_folder() / "images" / f"{_hash(blobs, settings)}.safetensors"
    remove_stale_partials(file.parent)
    if (cached := _read(file, len(blobs), report)) is not None:
        return cached
    images = decode()
    if images.nbytes <= MAX_FILE_BYTES:
        with suppress(OSError):
            _store(file, images)
    return images


def _hash(blobs: Sequence[bytes], settings: str) -> str:
    sha256 = hashlib.sha256(repr((settings, [*map(len, blobs)])).encode())
    for blob in blobs:
        sha256.update(blob)
    return sha256.hexdigest()[:32]


def _key(file: Path) -> npt.NDArray[np.uint8]:
    """The file's own HASH, so that the file of another set is not read under its name."""
    return np.frombuffer(file.stem.encode(), np.uint8)


def _read(file: Path, count: int, report: Callable[[str], None]) -> Images | None:
    """Returns the images of a file; None if there is none or, reported, it is damaged."""
    if not os.access(file, os.R_OK):  # missing, or of another user
        return None
    try:
        content = WeightsFile(file).read()
        images = content["images"]
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count or images.shape[2] != images.shape[3]:
            raise ValueError(f"it has {images.dtype}{list(images.shape)} for {count} images")
        if not np.array_equal(content["key"], _key(file)):
            raise ValueError("it has the images of another data set")
    except Exception as error:  # readers of damaged files raise errors of every kind
        report(f"decoded images in the cache are damaged and were decoded again ({str(error).rstrip('.')})")
        return None
    with suppress(OSError):  # another user owns the file
        os.utime(file)
    return images.astype(np.uint8, copy=False)  # has this type, which mypy does not see


def _store(file: Path, images: Images) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, this_process()) as partial:
        save_weights(partial, {"images": images, "key": _key(file)})
    _delete_oldest(file.parent)


def _delete_oldest(folder: Path) -> None:
    """Delete the least recently used files beyond IMAGE_CACHE_BYTES, but no partial one."""
    free_bytes = IMAGE_CACHE_BYTES
    files = [(file, file.stat()) for file in folder.iterdir() if file.suffix != ".partial"]
    for file, stat in sorted(files, key=lambda each: -each[1].st_mtime_ns):
        free_bytes -= stat.st_size
        if free_bytes < 0:
            file.unlink()
