"""`ExactMean` against exact fractions, and its bits for any order and grouping of updates."""

import pickle
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedray.aggregation.exact_mean import ExactMean, cast_like
from fedray.types import Weights

RNG = np.random.default_rng(0)


def mean_of(updates: list[tuple[Weights, int]]) -> Weights:
    mean = ExactMean()
    for weights, count in updates:
        mean.add(weights, count)
    return cast_like(mean.mean(), updates[0][0])


def test_weighted_mean_equals_hand_computed_value() -> None:
    updates = [({"w": np.array([1.0, 2.0], np.float32)}, 1), ({"w": np.array([3.0, -2.0], np.float32)}, 3)]
    assert mean_of(updates)["w"].tolist() == [2.5, -1.0]


def test_integer_buffers_are_averaged_and_rounded() -> None:
    updates = [
        ({"n": np.array(10, np.int64)}, 1),
        ({"n": np.array(13, np.int64)}, 1),
        ({"n": np.array(13, np.int64)}, 1),
    ]
    mean = mean_of(updates)["n"]
    assert mean.dtype == np.int64
    assert mean.shape == ()
    assert mean == 12


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(1, 100_000)), min_size=1, max_size=6),
)
def test_agrees_with_exact_fractions(pairs: list[tuple[float, int]]) -> None:
    updates = [({"w": np.array([value], np.float32)}, count) for value, count in pairs]
    total = sum(count for _, count in pairs)
    exact = sum((Fraction(value) * count for value, count in pairs), Fraction(0)) / total
    assert mean_of(updates)["w"][0] == pytest.approx(float(exact), rel=6e-8, abs=2**-44)


def test_mean_of_one_update_is_the_update() -> None:
    weights = {"w": RNG.normal(scale=0.05, size=10_000).astype(np.float32)}
    assert np.array_equal(mean_of([(weights, 1234)])["w"], weights["w"])


def test_every_order_gives_the_same_bits() -> None:
    scales = [1e-6, 1.0, 1e4, 3e-3]
    updates = [
        ({"w": RNG.normal(scale=s, size=500).astype(np.float32)}, int(n))
        for s, n in zip(scales, (3, 50, 7, 911), strict=True)
    ]
    results = {mean_of(list(order))["w"].tobytes() for order in permutations(updates)}
    assert len(results) == 1


def test_float32_sums_depend_on_the_order() -> None:
    values = [np.float32(v) for v in (1e6, 0.01, -1e6, 0.5)]
    assert len({sum(order, start=np.float32(0)) for order in permutations(values)}) > 1
    assert len({mean_of([({"w": np.array([v])}, 1) for v in order])["w"][0] for order in permutations(values)}) == 1


def test_merged_sums_give_the_same_bits() -> None:
    updates = [({"w": RNG.normal(size=500).astype(np.float32)}, n) for n in (3, 50, 7, 911)]
    left, right = ExactMean(), ExactMean()
    for mean, part in ((left, updates[1:3]), (right, [updates[3], updates[0]])):
        for weights, count in part:
            mean.add(weights, count)
    right.merge(left)
    assert np.array_equal(cast_like(right.mean(), updates[0][0])["w"], mean_of(updates)["w"])


def test_mean_is_exact_at_the_limits_of_its_range() -> None:
    """With the largest weights and 2²⁵ examples all integers stay below 2⁵³."""
    updates = [({"w": np.array([2.0**20], np.float32)}, 2**20)] * 32
    assert mean_of(updates)["w"][0] == 2.0**20


def test_scalar_counter_beyond_int64_units() -> None:
    """As BatchNorm's counter: (1·1 + 17·17 + 512·512) / 530 is 495.1."""
    updates = [({"n": np.array(n)}, n) for n in (1, 17, 512)]
    parts = [ExactMean(), ExactMean()]
    for number, (weights, n) in enumerate(updates):
        parts[number % 2].add(weights, n)
    parts[0].merge(parts[1])
    assert mean_of(updates)["n"] == cast_like(parts[0].mean(), updates[0][0])["n"] == 495


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(1, 100_000)), min_size=2, max_size=6),
    st.integers(1, 5),
)
def test_pickled_partial_sums_give_the_same_bits(pairs: list[tuple[float, int]], cut: int) -> None:
    updates = [({"w": np.array([value, -value], np.float32), "n": np.array(n)}, n) for value, n in pairs]
    parts = [ExactMean(), ExactMean()]
    for number, (weights, n) in enumerate(updates):
        parts[number >= cut].add(weights, n)
    first, second = (pickle.loads(pickle.dumps(part)) for part in parts)
    first.merge(second)
    whole, found = mean_of(updates), cast_like(first.mean(), updates[0][0])
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in whole.items()}


@pytest.mark.parametrize(("value", "bytes_per_parameter"), [(0.05, 8), (500.0, 16)])
def test_pickled_sum_takes_8_bytes_per_parameter_if_values_are_small(value: float, bytes_per_parameter: int) -> None:
    mean = ExactMean()
    for n in range(20):
        mean.add({"w": np.full(100_000, value * (-1) ** (n // 15), np.float32)}, 500)
    assert len(pickle.dumps(mean)) == pytest.approx(bytes_per_parameter * 100_000, rel=0.01)
