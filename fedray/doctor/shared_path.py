"""Tests whether nodes share a folder or URI: this process writes a token, each node reads it and replies."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from fedray.errors import SpecError
from fedray.results.remote import Remote
from fedray.results.storage import is_uri

PROPAGATION_TIMEOUT_S = 5.0
"""Seconds until a file that another node wrote is visible in a network file system."""

ListFiles: TypeAlias = Callable[[], set[str]]


@contextmanager
def token_folder(path: str, token: str) -> Iterator[tuple[str, ListFiles]]:
    """Create a folder with a random name and the token below the path; delete it, and new parents, at the end.

    Yields its name and a function that lists its files. Raises OSError or SpecError if it cannot be written.
    """
    mark = f".fedray-doctor-{secrets.token_hex(4)}"
    with _at_uri(path, mark, token) if is_uri(path) else _in_folder(Path(path), mark, token) as list_files:
        yield mark, list_files


def wait_for_files(list_files: ListFiles, expected: set[str]) -> set[str]:
    """Return the expected files that are visible, at the latest after PROPAGATION_TIMEOUT_S."""
    deadline = time.monotonic() + PROPAGATION_TIMEOUT_S
    while not expected <= (files := list_files()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return expected & files


@contextmanager
def _in_folder(folder: Path, mark: str, token: str) -> Iterator[ListFiles]:
    new_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        (folder / mark).mkdir(parents=True)
        (folder / mark / "token").write_text(token)
        yield lambda: {file.name for file in (folder / mark).iterdir()}
    finally:
        shutil.rmtree(folder / mark, ignore_errors=True)
        for new_folder in new_folders:
            with suppress(OSError):
                new_folder.rmdir()


@contextmanager
def _at_uri(uri: str, mark: str, token: str) -> Iterator[ListFiles]:
    remote = Remote(uri, mark)
    with remote.errors_as(SpecError), tempfile.TemporaryDirectory() as temp_folder:
        file = Path(temp_folder) / "token"
        file.write_text(token)
        remote.upload(file, "token")
        try:
            yield lambda: set(remote.list_files())
        finally:
            Remote(uri, "").delete(mark)
