"""What the doctor says, and how it names what it speaks of."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One whole sentence: which node, which value, what to do."""

    sentence: str
    must: bool = True
    """Whether it must be put right before anything runs well."""


def node_names(names: Sequence[str]) -> str:
    """`node a`, `nodes a and b`, `nodes a, b and 3 more`."""
    if len(names) < 3:
        return f"node{'s' * (len(names) - 1)} {' and '.join(names)}"
    return f"nodes {names[0]}, {names[1]} and {len(names) - 2} more"


def counted(number: float, what: str) -> str:
    return f"{number:g} {what}" if number == 1 else f"{number:g} {what}s"
