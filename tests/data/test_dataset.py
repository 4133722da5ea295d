"""A labelled image set: balanced subsets, channel statistics, `take` and digests."""

from collections import Counter

import numpy as np
import pytest
from helpers.images import dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from fedray.data.dataset import channel_statistics, choose_balanced
from fedray.errors import SpecError


def counts_of(labels: np.ndarray, chosen: np.ndarray) -> list[int]:
    counts = Counter(labels[chosen].tolist())
    return [counts[label] for label in range(labels.max() + 1)]


def test_balanced_takes_equally_many_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    chosen = choose_balanced(labels, 30, seed=0, purpose="train_limit")
    assert counts_of(labels, chosen) == [10, 10, 10]
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()


def test_balanced_spreads_the_remainder_over_some_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    assert sorted(counts_of(labels, choose_balanced(labels, 32, seed=0, purpose="train_limit"))) == [10, 11, 11]


def test_balanced_takes_more_of_other_classes_when_one_runs_out() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 4])
    assert counts_of(labels, choose_balanced(labels, 44, seed=0, purpose="train_limit")) == [20, 20, 4]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0, 1), st.integers(0, 99))
def test_balanced_levels_the_classes(counts: list[int], share: float, seed: int) -> None:
    """A class has fewer examples than another (less one) only if all of its examples are chosen."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    chosen = choose_balanced(labels, round(share * len(labels)), seed, "train_limit")
    assert len(set(chosen.tolist())) == len(chosen) == round(share * len(labels))
    taken = [int((labels[chosen] == label).sum()) for label in range(len(counts))]
    for count, available in zip(taken, counts, strict=True):
        assert count == available or count >= max(taken) - 1


def test_balanced_is_seeded_by_seed_and_purpose() -> None:
    labels = np.repeat(np.arange(10), 50)
    first = choose_balanced(labels, 100, 0, "train_limit").tolist()
    assert first == choose_balanced(labels, 100, 0, "train_limit").tolist()
    assert first != choose_balanced(labels, 100, 1, "train_limit").tolist()
    assert first != choose_balanced(labels, 100, 0, "public_fraction").tolist()


def test_balanced_chooses_at_random_within_a_class() -> None:
    labels = np.zeros(1000, dtype=np.int64)
    chosen = choose_balanced(labels, 500, 0, "train_limit")
    # 500 of 0..999 without replacement: the mean is 499.5 with a standard deviation of 288.7 * sqrt(0.5 / 500) = 9.1.
    assert abs(chosen.mean() - 499.5) < 5 * 9.1


def test_balanced_subset_of_size_zero_and_of_full_size() -> None:
    labels = np.array([2, 0, 0, 1])
    assert choose_balanced(labels, 0, 0, "train_limit").tolist() == []
    assert choose_balanced(labels, 4, 0, "train_limit").tolist() == [0, 1, 2, 3]


def test_balanced_subset_larger_than_the_set() -> None:
    with pytest.raises(SpecError, match=r"data.test_limit is 5, but there are only 4 examples\."):
        choose_balanced(np.array([2, 0, 0, 1]), 5, 0, "test_limit")


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_statistics_agree_with_numpy(channels: int) -> None:
    data = dataset(np.arange(37) % 5, channels=channels, size=9)
    mean, std = channel_statistics(data)
    scaled = data.images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-5)
    assert mean.dtype == std.dtype == np.float32


def test_std_of_a_constant_channel_is_above_zero() -> None:
    data = dataset(np.zeros(3, dtype=np.int64), channels=1, size=4)
    data.images[:] = 51
    mean, std = channel_statistics(data)
    assert mean[0] == np.float32(0.2)
    assert 0 < std[0] < 1e-5


def test_take_keeps_order_and_all_attributes() -> None:
    data = dataset(np.arange(6) % 3)
    taken = data.take(np.array([4, 1]))
    assert len(taken) == 2
    np.testing.assert_array_equal(taken.images, np.stack([data.images[4], data.images[1]]))
    assert taken.labels.tolist() == [1, 1]
    assert taken.rows.tolist() == [104, 101]
    assert taken.paths is not None
    assert taken.paths.tolist() == ["4.png", "1.png"]
    assert (taken.name, taken.classes) == (data.name, data.classes)


def test_take_without_paths() -> None:
    assert dataset(np.arange(6) % 3, paths=False).take(np.array([0])).paths is None


def test_shape_of_a_dataset() -> None:
    shape = dataset(np.arange(6) % 3, channels=3, size=5).shape
    assert (shape.channels, shape.size, shape.classes) == (3, 5, 3)


def test_image_digest_depends_on_images_only() -> None:
    data = dataset(np.arange(6) % 3)
    other_label = dataset(np.array([0, 1, 2, 0, 1, 1]), paths=False)
    assert data.image_digest == other_label.image_digest
    assert len(data.image_digest) == 64
    other_pixel = dataset(np.arange(6) % 3)
    other_pixel.images[0, 0, 0, 0] ^= 1
    assert len({data.image_digest, other_pixel.image_digest, data.take(np.arange(5)).image_digest}) == 3
