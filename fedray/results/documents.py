"""Small JSON files that carry a checksum of their contents."""

import hashlib
import json
from pathlib import Path

from fedray.errors import SpecError
from fedray.files import replace_text
from fedray.types import Row

CHECKSUM = "checksum"
"""Field with the SHA-256 of the other fields."""


def write_document(path: Path, document: Row) -> None:
    """Replace a JSON file by an object and its checksum. Raises RunError if it cannot be written."""
    replace_text(path, json.dumps(document | {CHECKSUM: _checksum(document)}, indent=2))


def read_document(path: Path) -> tuple[Row, bool]:
    """Return the object of a file, and whether it has a checksum, which files of earlier versions lack.

    Raises SpecError if the file is missing or differs from its checksum.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        checksum = document.pop(CHECKSUM, None)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        document, checksum = None, None
    if not isinstance(document, dict) or checksum not in (_checksum(document), None):
        raise SpecError(f"'{path}' is missing or damaged")
    return document, checksum is not None


def _checksum(document: Row) -> str:
    """Return the SHA-256 of an object as JSON, in which all keys are text and tuples are lists."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(document)), sort_keys=True).encode()).hexdigest()
