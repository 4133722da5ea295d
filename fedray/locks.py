"""Locks between processes, which the system releases if a process dies."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from fedray.errors import SpecError

RESULTS_REMEDY = "choose a --results on another file system, or name the folder as a URI: file:///PATH"
"""A run under a URI has its lock in the cache folder of its machine."""
CACHE_REMEDY = "set FEDRAY_CACHE to a folder on another file system"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems without locks: NFS without its lock service, Lustre without the option flock."""


@contextmanager
def locked(path: Path, timeout_s: float, remedy: str) -> Iterator[None]:
    """Hold the lock of a file, which is created; wait at most `timeout_s` for it, or forever if that is negative.

    Raises filelock.Timeout if another process holds it, and SpecError, with the `remedy`, where the file system has
    no locks or the file cannot be written. There is no fallback to a marker file, which would outlive a killed process.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_s)
    except NotImplementedError as error:  # raised by older versions of filelock
        raise _refusal(path, "the file system has no file locks", remedy) from error
    except OSError as error:
        if error.errno is None:  # filelock's Timeout
            raise
        reason = "the file system has no file locks" if error.errno in NO_LOCKS else error.strerror
        raise _refusal(path, str(reason), remedy) from error
    try:
        yield
    finally:
        lock.release()


def _refusal(path: Path, reason: str, remedy: str) -> SpecError:
    return SpecError(f"'{path}' cannot be locked ({reason}); {remedy}.")
