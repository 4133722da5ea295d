"""Paths of files in a spec, digests of file contents, and atomic replacement of small files."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from fedray.errors import writing


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Replace a small file so that it is complete at any moment: the former text or the new one.

    Raises RunError if it cannot be written; the former file then stays and no partial one is left behind.
    """
    partial = path.with_name(f"{path.name}.partial")
    with writing(path):
        try:
            with partial.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
