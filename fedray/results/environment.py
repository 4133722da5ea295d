"""environment.json: the identity of a run, its format, and where and how it was executed."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fedray.errors import SpecError
from fedray.files import replace_text
from fedray.types import Row

FILE = "environment.json"
CHECKSUM = "checksum"
"""Field with the SHA-256 of the other fields."""


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
    text = json.dumps(document | {CHECKSUM: _checksum(document)}, indent=2)
    replace_text(folder / FILE, text)


def read_environment(folder: Path) -> Row:
    """Return environment.json without its checksum. Raises SpecError if it is missing or damaged."""
    try:
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
        checksum = document.pop(CHECKSUM, None)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        document, checksum = None, None
    if not isinstance(document, dict) or checksum not in (_checksum(document), None):
        raise SpecError(f"'{folder}' holds a run whose {FILE} is missing or damaged")
    return document if checksum else {name: value for name, value in document.items() if name != "identity"}


def _checksum(document: Row) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _commit() -> str | None:
    """Return the commit of the checkout that contains fedray, `-dirty` appended for local changes; None without it."""
    try:
        folder = Path(__file__).parent
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() or None
