"""A cache of decoded images on disk. Decoding takes most of the time of reading a data set.

$FEDRAY_CACHE/images/HASH.npy      uint8 [n, C, H, W]; HASH covers the encoded images, the decoder and the size
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedray.cache import cache_folder

MIN_IMAGES = 1000
"""Smaller sets are not cached: decoding them takes about as long as reading the cache."""
MAX_FILE_BYTES = 2**30
"""Larger sets are not cached."""
IMAGE_CACHE_BYTES = 4 * 2**30
"""Size of the whole cache; the least recently used sets are deleted first."""

Images = npt.NDArray[np.uint8]


def cached_images(blobs: Sequence[bytes], settings: str, decode: Callable[[], Images]) -> Images:
    """Returns the decoded images (uint8 [n, C, H, W]) from the cache, or else from `decode`, and caches them.

    `settings` names whatever else decides the result, such as the decoder's version. A cache folder that cannot be
    written is ignored.
    """
    if len(blobs) < MIN_IMAGES:
        return decode()
    file = cache_folder() / "images" / f"{_hash(blobs, settings)}.npy"
    with suppress(OSError, ValueError, EOFError):  # missing or truncated
        images: Images = np.load(file)
        with suppress(OSError):  # another user owns the file
            os.utime(file)
        return images
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


def _store(file: Path, images: Images) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as stream:
        np.save(stream, images)
    partial.replace(file)
    _delete_oldest(file.parent)


def _delete_oldest(folder: Path) -> None:
    """Delete the least recently used files beyond IMAGE_CACHE_BYTES."""
    free_bytes = IMAGE_CACHE_BYTES
    for file in sorted(folder.iterdir(), key=lambda file: -file.stat().st_mtime_ns):
        free_bytes -= file.stat().st_size
        if free_bytes < 0:
            file.unlink()
