"""Paths of files in a spec, digests of file contents, and atomic replacement of small files."""

import errno
import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from fedray.errors import writing

STALE_AFTER_S = 3600
"""Age of a partial file from which it is taken as that of a process that has ended."""


def refuse_pipe(path: Path) -> None:
    """Raises OSError for a named pipe, whose reader may wait for ever; pipes of a shell below /dev are accepted."""
    if path.is_fifo() and not path.is_relative_to("/dev") and not path.is_relative_to("/proc"):
        raise OSError(errno.EINVAL, "it is a named pipe", str(path))


def strip_scheme(text: str) -> Path:
    """Return the path in `file:PATH`, `local-dir:PATH` or `PATH`, with `~` expanded."""
    kind, colon, path = text.partition(":")
    return Path(path if colon and kind in ("file", "local-dir") else text).expanduser()


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file, or of a folder's files and their names; None if the path does not exist."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return hashlib.sha256(repr([(str(f.relative_to(path)), file_digest(f)) for f in files]).encode()).hexdigest()
    if not path.is_file():
        return None
    return _read_digest(path, path.stat().st_size, path.stat().st_mtime_ns)


@lru_cache
def _read_digest(path: Path, _size: int, _changed: int) -> str:
    """Read each version of a file once: it may be large, and the cache keys of many clients may depend on it."""
    return sha256_of_file(path)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's present contents, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Replace a small file so that it is complete at any moment: the former text or the new one.

    Raises RunError if it cannot be written; the former file then stays and no partial one is left behind.
    """
    with writing(path), replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


@contextmanager
def replacing(path: Path, owner: str = "") -> Iterator[Path]:
    """Yield the path of a partial file, which replaces `path` once the context has written it.

    After an error the partial file is deleted. `owner` is part of its name: without one, only one process may write
    the file at a time, and replaces the partial file of an earlier process.
    """
    partial = path.with_name(f"{path.name}{owner}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def this_process() -> str:
    """Return `.HOST-PID`, the owner of a partial file that other processes may write at the same time."""
    return f".{_host()}-{os.getpid()}"


def remove_stale_partials(folder: Path) -> None:
    """Delete the partial files below a folder whose processes have ended; on other hosts, those older than an hour.

    A cache loses nothing if a living process loses its file.
    """
    with suppress(OSError):
        for partial in folder.rglob("*.partial"):
            with suppress(OSError):
                if _is_stale(partial):
                    partial.unlink()


def _host() -> str:
    return platform.node().replace(".", "_")


def _is_stale(partial: Path) -> bool:
    if time.time() - partial.stat().st_mtime > STALE_AFTER_S:
        return True
    host, _, process = partial.stem.rpartition(".")[2].rpartition("-")
    if host not in ("", _host()) or not process.isdigit() or sys.platform == "win32":
        return False
    try:
        os.getpgid(int(process))
    except (ProcessLookupError, OverflowError):
        return True
    return False
