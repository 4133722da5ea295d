"""Standard output and error of the command: closed, in an encoding without `±`, or on a full disk."""

import codecs
import errno
import os
import sys

REPLACEMENTS = {"±": "+-", "–": "-", "−": "-", "…": "...", "·": "*", "×": "x", "λ": "lambda", "α": "alpha"}
"""Text for characters that an encoding such as ASCII does not have; others become `?`."""
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def prepare_streams() -> None:
    """Open closed standard streams as /dev/null, and let the others replace characters that they cannot encode.

    A closed one must not stay closed: the next file that is opened would get its number, and the output of Ray's
    processes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    codecs.register_error("fedray", _replace)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="fedray")


def is_write_error(error: OSError) -> bool:
    """Whether the error says that a disk is full or damaged, and names no file."""
    return error.filename is None and error.errno in WRITE_ERRORS


def discard_output() -> None:
    """Send further output to /dev/null, so that the interpreter's last flush does not fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of characters that the encoding lacks, and the position after them. Called by Python."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(REPLACEMENTS.get(character, "?") for character in text), error.end
