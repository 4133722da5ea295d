"""Paths of files that a spec names, and digests of their contents."""

import hashlib
from functools import lru_cache
from pathlib import Path


def strip_scheme(text: str) -> Path:
    """`file:PATH`, `local-dir:PATH` or `PATH` -> PATH."""
    kind, colon, path = text.partition(":")
    return Path(path if colon and kind in ("file", "local-dir") else text).expanduser()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file, or of all files of a folder and their names; None where there is nothing."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return hashlib.sha256(repr([(str(f.relative_to(path)), file_digest(f)) for f in files]).encode()).hexdigest()
    if not path.is_file():
        return None
    return _read_digest(path, path.stat().st_size, path.stat().st_mtime_ns)


@lru_cache
def _read_digest(path: Path, _size: int, _changed: int) -> str:
    """Read once: many clients' entries may depend on one file of gigabytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
