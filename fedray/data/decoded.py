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

from fedray.teachers.bank import cache_folder

FEW = 1000
"""Images that are decoded about as fast as they are found here."""
LARGE = 2**30
"""Bytes of a set that is not kept."""
ROOM = 4 * 2**30
"""Bytes of all that are: those that nobody has used for longest make room."""

Images = npt.NDArray[np.uint8]


def decoded(blobs: Sequence[bytes], how: str, decode: Callable[[], Images]) -> Images:
    """What `decode` makes of encoded images, or has made of them before. `how` is all else that decides it.

    Where the folder cannot be written, nothing is kept.
    """
    if len(blobs) < FEW:
        return decode()
    file = cache_folder() / "images" / f"{_hash(blobs, how)}.npy"
    with suppress(OSError, ValueError, EOFError):  # not there, or cut short
        images: Images = np.load(file)
        with suppress(OSError):  # somebody else's, to be read only
            os.utime(file)
        return images
    images = decode()
    if images.nbytes <= LARGE:
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
    room = ROOM
    for each in sorted(file.parent.iterdir(), key=lambda each: -each.stat().st_mtime_ns):
        room -= each.stat().st_size
        if room < 0:
            each.unlink()
