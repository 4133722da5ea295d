"""Equality of the values of a spec.

Two floats are equal if they agree in their first 15 significant digits, the digits that every float keeps: 0.1 + 0.2 is
0.3. A boolean never equals a number.
"""

from collections.abc import Mapping, Sequence

SIGNIFICANT_DIGITS = 15


def canonical(value: object) -> object:
    """Return the value with floats rounded to 15 significant digits, tuples as lists."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0  # + 0.0: -0.0 becomes 0.0
    if isinstance(value, Mapping):
        return {key: canonical(part) for key, part in value.items()}
    return [canonical(part) for part in value] if isinstance(value, list | tuple) else value


def same_value(left: object, right: object) -> bool:
    """Whether two values are one setting."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same_value, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return canonical(left) == canonical(right)


def distinct(values: Sequence[object]) -> list[object]:
    """Return the first of each group of equal values."""
    return [value for index, value in enumerate(values) if not any(same_value(value, v) for v in values[:index])]


def includes(value: object, pattern: object) -> bool:
    """Whether a value is the pattern or, for a section, has each of the pattern's fields."""
    if isinstance(value, Mapping) and isinstance(pattern, Mapping):
        return all(key in value and includes(value[key], part) for key, part in pattern.items())
    return same_value(value, pattern)
