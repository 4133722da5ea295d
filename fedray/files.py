"""The files that a spec names besides its data: weights and tables. They decide a result, too."""

import hashlib
from functools import lru_cache
from pathlib import Path

from fedray.config import Experiment
from fedray.spec_errors import FILES
from fedray.spec_file import flatten


def named_files(experiment: Experiment) -> dict[str, str]:
    """Of each field that names a file or folder: the SHA-256 of what is in it now."""
    fields = flatten(experiment.model_dump(mode="json"))
    texts = {field: text for field, text in fields.items() if field.split(".")[-1] in FILES and isinstance(text, str)}
    digests = {field: file_digest(path_in(text)) for field, text in texts.items()}
    return {field: digest for field, digest in digests.items() if digest is not None}


def path_in(text: str) -> Path:
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
