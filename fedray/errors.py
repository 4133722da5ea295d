"""Errors that a person can act on."""

from collections.abc import Iterable
from difflib import get_close_matches


class SpecError(ValueError):
    """The spec, or a file it names, cannot be used. The message is one whole sentence."""

    def __init__(self, message: str) -> None:
        sentence = " ".join(message.split())  # libraries' own words, quoted in it, may have many lines
        super().__init__(sentence if sentence.endswith((".", "?")) else f"{sentence}.")


class RunError(RuntimeError):
    """A run cannot go on. Where a client failed, the message names client, round, node and cause."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'lam'?` where something known is close to `word`, else an empty string."""
    spellings = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), spellings, n=1, cutoff=0.5)
    return f"; did you mean '{spellings[close[0]]}'?" if close else ""
