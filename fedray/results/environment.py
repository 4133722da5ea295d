"""environment.json: the identity of a run, its format, and where and how it was executed."""

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fedray.errors import SpecError
from fedray.results.documents import read_document, write_document
from fedray.types import Row

FILE = "environment.json"


def circumstances(command: Sequence[str]) -> Row:
    """Return facts that decide no number: the command, the machine, and the commit of fedray's checkout."""
    return {
        "commit": _commit(),
        "command": list(command),
        "node": platform.node(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


def write_environment(folder: Path, document: Row) -> None:
    """Replace environment.json, with a checksum. Raises RunError if it cannot be written."""
    write_document(folder / FILE, document)


def read_environment(folder: Path) -> Row:
    """Return environment.json without its checksum. Raises SpecError if it is missing or damaged."""
    try:
        document, has_checksum = read_document(folder / FILE)
    except SpecError:
        raise SpecError(f"'{folder}' holds a run whose {FILE} is missing or damaged") from None
    return document if has_checksum else {name: document[name] for name in document.keys() - {"identity", "checksums"}}


def _commit() -> str | None:
    """Return the commit of the checkout that contains fedray, `-dirty` appended for local changes; None without it."""
    try:
        folder = Path(__file__).parent
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() or None
