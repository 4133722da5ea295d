"""fedray's errors, and helpers for their messages."""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class SpecError(ValueError):
    """The spec, or a file that it names, is invalid. The message is one sentence."""

    warnings: tuple[str, ...] = ()
    """Sentences on the data that was read before the error."""

    def __init__(self, message: str) -> None:
        line = _printable(_shortened(" ".join(message.split())))  # a library's message may have several lines
        super().__init__(line if line.endswith((".", "?")) else f"{line}.")


MAX_MESSAGE_CHARACTERS = 1500
"""Longer messages are shortened in the middle: they quote a value or a name of any length."""


MAX_WORD_CHARACTERS = 200
"""Longer words are not compared with known ones."""


def _printable(text: str) -> str:
    """Return the text with unprintable characters as escapes, for example \\x00."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _shortened(text: str) -> str:
    half = MAX_MESSAGE_CHARACTERS // 2
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


class DamagedError(SpecError):
    """The files of a finished run are damaged."""


class RunError(RuntimeError):
    """A run was aborted. If a client failed, the message names client, round, node and cause."""


class RepeatableError(RunError):
    """A run was aborted by an error that it meets again however often it resumes."""


class RayLostError(RunError):
    """Ray, or an actor that no other can replace, was lost. The run can resume from its last checkpoint."""

    def __init__(self, message: str, *, can_restart: bool) -> None:
        """`can_restart`: whether this process can start Ray again, or join it again."""
        super().__init__(message)
        self.can_restart = can_restart


class RefusedError(ValueError):
    """A client's update is invalid: it has non-finite values, or other names or shapes than the global model."""


class LostError(Exception):
    """Objects that a round needs were lost with a node or process. The run can resume from its last checkpoint."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError within the context into a RunError that names the path."""
    try:
        yield
    except OSError as error:
        raise RunError(f"'{path}' cannot be written ({error.strerror or error}).") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'lam'?` for the known word closest to `word`, or an empty string if none is close."""
    if len(word) > MAX_WORD_CHARACTERS:  # comparing takes time with the square of the length
        return ""
    spellings = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), spellings, n=1, cutoff=0.5)
    return f"; did you mean '{spellings[close[0]]}'?" if close else ""


def system_sentence(error: OSError) -> str:
    """Return an error of the operating system as a sentence with the file, if there is one, and its remedy."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; raise the limit with ulimit -n 4096."
    reason = error.strerror or type(error).__name__
    return f"'{error.filename}' cannot be used ({reason})." if error.filename else f"the system reports: {reason}."
