"""Errors that a person can act on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class SpecError(ValueError):
    """The spec, or a file it names, cannot be used. The message is one whole sentence."""

    def __init__(self, message: str) -> None:
        sentence = " ".join(message.split())  # libraries' own words, quoted in it, may have many lines
        super().__init__(sentence if sentence.endswith((".", "?")) else f"{sentence}.")


class RunError(RuntimeError):
    """A run cannot go on. Where a client failed, the message names client, round, node and cause."""


class RefusedError(ValueError):
    """A client's update cannot be used: a value that is not finite, another shape."""


class LostError(Exception):
    """What a round needs has gone with a node or a process. From a round that is on disk, it can be made again."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises RunError where the disk does not take it."""
    try:
        yield
    except OSError as error:
        raise RunError(f"'{path}' cannot be written ({error.strerror or error}).") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'lam'?` where something known is close to `word`, else an empty string."""
    spellings = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), spellings, n=1, cutoff=0.5)
    return f"; did you mean '{spellings[close[0]]}'?" if close else ""
