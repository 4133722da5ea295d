"""The clients of a partition file: labels of any kind, numbered in their order."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedray.data.class_names import number_labels
from fedray.errors import SpecError
from fedray.types import Indices

INTEGER = re.compile(r"-?(0|[1-9]\d*)")
DECIMAL = re.compile(r"-?\d+\.\d*(e[+-]?\d+)?", re.IGNORECASE)


def number_clients(column: npt.NDArray[np.generic], source: str) -> tuple[Indices, tuple[str, ...]]:
    """Returns each row's client number (int64 [N]) and the clients' labels, by number.

    Labels are whole numbers, which are sorted as numbers, or text. Raises SpecError, starting with `source`, for rows
    without a client and for labels of other kinds.
    """
    values = column.tolist()
    missing = next((row for row, value in enumerate(values) if value is None or value != value or value == ""), None)
    if missing is not None:
        raise SpecError(f"{source} has rows without a client; the first is row {missing}.")
    whole, texts = _whole_numbers(values), [value for value in values if isinstance(value, str)]
    if whole is None and (len(texts) < len(values) or all(map(_is_decimal, texts))):
        raise SpecError(f"{source} must have whole numbers or text in its column client.")
    return number_labels(texts) if whole is None else number_labels(whole)


def _whole_numbers(values: Sequence[object]) -> list[int] | None:
    """Returns the labels as numbers; None if they are not all whole numbers. Text such as `007` is not a number."""
    if all(isinstance(value, str) for value in values):
        return _numbers_of_text([str(value) for value in values])
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    whole = [int(number) for number in numbers if number == number // 1]
    return whole if len(whole) == len(values) else None


def _numbers_of_text(texts: Sequence[str]) -> list[int] | None:
    """Returns the numbers that a CSV file holds as text; `1.0` is 1 if all labels are written so."""
    if all(INTEGER.fullmatch(text) for text in texts):
        return [int(text) for text in texts]
    if all(map(_is_decimal, texts)) and all(float(text).is_integer() for text in texts):
        return [int(float(text)) for text in texts]
    return None


def _is_decimal(text: str) -> bool:
    return DECIMAL.fullmatch(text) is not None
