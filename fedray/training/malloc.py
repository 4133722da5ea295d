"""What the C library does with memory that a training step has freed: the next step wants it again."""

import ctypes
import sys
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Freed memory stays with this process. Nothing happens where the C library is not glibc.

    By default glibc gives large blocks back, and every step pays for the faults of touching them anew:
    about a sixth of its time for the small CNN, a tenth for a ResNet18. The peak stays what it was.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def trim() -> None:
    """Return what is free by now, after something large that does not come again."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(function: str) -> Any:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
