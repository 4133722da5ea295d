"""Classes of a source: numbered labels and their names, and the match of two sets by name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from fedray.data.dataset import Dataset
from fedray.errors import SpecError
from fedray.types import Indices

Label = TypeVar("Label", int, str)


def number_labels(values: Sequence[Label]) -> tuple[Indices, tuple[str, ...]]:
    """Returns each value's class (int64 [N]) and the names of the classes: the distinct values in their order."""
    distinct = sorted(set(values))
    number = {value: position for position, value in enumerate(distinct)}
    return np.array([number[value] for value in values], dtype=np.int64), tuple(map(str, distinct))


def check_labels(labels: Sequence[int], classes: Sequence[str], field: str) -> None:
    """Raises SpecError unless every label is the position of a class."""
    low, high = min(labels), max(labels)
    if low < 0 or high >= len(classes):
        raise SpecError(f"{field}: labels range from {low} to {high}, but there are {len(classes)} classes.")


def check_names(data: Dataset, field: str) -> Dataset:
    """Returns `data`. Raises SpecError if a class name is not valid Unicode, as a folder's name may be."""
    for name in data.classes:
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise SpecError(f"{field}: the class name {name!a} is not valid UTF-8.")
    return data


def match_classes(train: Dataset, test: Dataset) -> Dataset:
    """Returns the test set with the classes of the training set, matched by name.

    A source without class names is matched by number with one whose names are not numbers. Classes that only the
    training set has are noted in `left_out`. Raises SpecError for a class that only the test set has.
    """
    if train.classes == test.classes:
        return test
    positions = _positions(train, test)
    only_test = [test.classes[label] for label in np.unique(test.labels) if positions[label] < 0]
    if only_test:
        raise SpecError(
            f"data: {_listed('class', only_test)} only in data.test; data.train has {_shortened(train.classes)}."
        )
    matched = set(positions.tolist())
    only_train = [name for label, name in enumerate(train.classes) if label not in matched]
    notes = (f"{_listed('class', only_train)} only in data.train, not in data.test",) if only_train else ()
    return replace(
        test,
        labels=positions[test.labels],
        classes=train.classes,
        left_out=(*test.left_out, *notes),
    )


def _positions(train: Dataset, test: Dataset) -> Indices:
    """Returns the position of each of test's classes among train's; -1 if it has none."""
    known = {key: position for position, key in enumerate(_keys(train.classes))}
    if train.named != test.named and not _are_numbers(train.classes if train.named else test.classes):
        if not train.named:
            return np.array([known.get((str(number), 0), -1) for number in range(len(test.classes))], dtype=np.int64)
        numbers = [int(name) for name in test.classes]
        return np.array([number if number < len(train.classes) else -1 for number in numbers], dtype=np.int64)
    return np.array([known.get(key, -1) for key in _keys(test.classes)], dtype=np.int64)


def _keys(names: Sequence[str]) -> list[tuple[str, int]]:
    """Returns a key for each name: equal names, such as ImageNet's two classes `crane`, are counted."""
    seen: Counter[str] = Counter()
    keys = []
    for name in names:
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isdigit() for name in names)


def _listed(noun: str, names: Sequence[str]) -> str:
    """Returns `the class 'emu' is` or `3 classes ('a', 'b', 'c') are`."""
    if len(names) == 1:
        return f"the {noun} '{names[0]}' is"
    return f"{len(names)} {noun}es ({_shortened([repr(name) for name in names])}) are"


def _shortened(names: Sequence[str], most: int = 10) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
