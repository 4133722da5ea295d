"""Parts of sentences with numbers."""

import pandas as pd
import pytest

from analysis.text import MAX_ITEMS, counted, listed, part_of, points, shortened, with_labels


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c"], "a, b and c"),
        (["a, b", "c", "d"], "a, b; c; and d"),
        (["a, b", "c"], "a, b and c"),
    ],
)
def test_listed(parts: list[str], expected: str) -> None:
    assert listed(parts) == expected


def test_counted_adds_a_plural_s() -> None:
    assert [counted(n, "seed") for n in (0, 1, 3)] == ["0 seeds", "1 seed", "3 seeds"]
    assert part_of(1, 4, "lacks", "lack") == "1 of 4 runs lacks"
    assert part_of(2, 4, "lacks", "lack", "cells") == "2 of 4 cells lack"


def test_points_are_percent() -> None:
    assert points(0.032) == "3.2"
    assert points(0.032, signed=True) == "+3.2"
    assert points(-0.0004, signed=True) == "+0.0"


def test_with_labels_writes_the_unit_once() -> None:
    assert with_labels(pd.Series({"FedAvg": "3.2", "FML": "2.9"}), "points") == "3.2 points for FedAvg and 2.9 for FML"


def test_shortened_lists_the_first_items() -> None:
    assert shortened(list("abc")) == "a, b, c"
    assert (
        shortened([str(n) for n in range(MAX_ITEMS + 2)], "; ") == "; ".join(map(str, range(MAX_ITEMS))) + " and 2 more"
    )
