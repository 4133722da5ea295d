"""Equality of the values of a spec."""

import pytest

from fedray.config.values import canonical, distinct, includes, same_value


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (0.1 + 0.2, 0.3, True),
        (0.3, 0.3000000001, False),
        (1, 1.0, True),
        (0.0, -0.0, True),
        (True, 1, False),
        (0, False, False),
        (True, True, True),
        (1e300, 1e300 * (1 + 1e-16), True),
        (2**53, 2**53 + 1, False),
        ("1", 1, False),
        (None, 0, False),
        ([0.1 + 0.2, 1], (0.3, 1.0), True),
        ([1], [1, 2], False),
        ({"a": [0.1 + 0.2]}, {"a": [0.3]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
    ],
)
def test_equal_values_are_one_setting(left: object, right: object, expected: bool) -> None:
    assert same_value(left, right) is expected
    assert same_value(right, left) is expected


def test_canonical_rounds_floats_inside_lists_and_sections() -> None:
    assert canonical({"a": (0.1 + 0.2, 1, True)}) == {"a": [0.3, 1, True]}
    assert str(canonical(-0.0)) == "0.0"


def test_distinct_keeps_the_first_of_equal_values() -> None:
    assert distinct([0.3, 0.1 + 0.2, 1, True, 1.0]) == [0.3, 1, True]


def test_section_includes_some_of_its_fields() -> None:
    assert includes({"a": {"b": 1, "c": 2}}, {"a": {"c": 2.0}})
    assert not includes({"a": 1}, {"b": 1})
