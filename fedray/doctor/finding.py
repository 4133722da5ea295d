"""One problem that the doctor found, and helpers for its wording."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A sentence that names the node, the value and the remedy."""

    sentence: str
    is_error: bool = True
    """Whether the problem must be fixed before a run; otherwise the finding is a warning."""


def node_names(names: Sequence[str]) -> str:
    """Return `node a`, `nodes a and b` or `nodes a, b and 3 more`."""
    if len(names) < 3:
        return f"node{'s' * (len(names) - 1)} {' and '.join(names)}"
    return f"nodes {names[0]}, {names[1]} and {len(names) - 2} more"


def count(number: float, noun: str) -> str:
    """Return `1 actor` or `2.5 cores`."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
