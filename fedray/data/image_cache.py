"""Decoded images, kept for the next run that reads the same ones: decoding takes longer than all else of reading.

$FEDRAY_CACHE/images/HASH.npy      uint8 [n, C, H, W]; HASH is of the encoded images and of what is made of them
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
"""Images that are decoded about as fast as they are found here."""
MIN_FILE_BYTES = 2**30
"""Bytes of a set that is not kept."""
IMAGE_CACHE_BYTES = 4 * 2**30
"""Bytes of all that are: those that nobody has used for longest make room."""

Images = npt.NDArray[np.uint8]


def cached_images(blobs: Sequence[bytes], how: str, decode: Callable[[], Images]) -> Images:
    """What `decode` makes of encoded images, or has made of them before. `how` is all else that decides it.

    Where the folder cannot be written, nothing is kept.
    """
    if len(blobs) < MIN_IMAGES:
        return decode()
    file = cache_folder() / "images" / f"{_hash(blobs, how)}.npy"
    with suppress(OSError, ValueError, EOFError):  # not there, or cut short
        images: Images = np.load(file)
        with suppress(OSError):  # somebody else's, to be read only
            os.utime(file)
        return images
    images = decode()
    if images.nbytes <= MIN_FILE_BYTES:
        with suppress(OSError):
            _keep(file, images)
    return images


def _hash(blobs: Sequence[bytes], how: str) -> str:
    hashed = hashlib.sha256(repr((how, [*map(len, blobs)])).encode())
    for blob in blobs:
        hashed.update(blob)
    return hashed.hexdigest()[:32]


def _keep(file: Path, images: Images) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as stream:
        np.save(stream, images)
    partial.replace(file)
    room = IMAGE_CACHE_BYTES
    for each in sorted(file.parent.iterdir(), key=lambda each: -each.stat().st_mtime_ns):
        room -= each.stat().st_size
        if room < 0:
            each.unlink()
