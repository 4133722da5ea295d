"""The combination of a client's teachers equals a computation in NumPy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fedray.teachers.ensemble import LogitEnsemble

COMBINES = ("mean_logits", "mean_probabilities", "weighted", "best")
OWN, OTHERS, CLASSES = 40, 6, 5
Array = npt.NDArray[np.float64]
Logits = tuple[list[Array], list[Array], npt.NDArray[np.int64]]


@pytest.fixture
def logits() -> Logits:
    """Three teachers' logits of the client's images and of other images, and the labels of the client's images.

    Their scales are those of CLIP (cosines times 100), SigLIP (log-odds far below 0) and a classifier.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, OWN)
    truth = np.eye(CLASSES)[labels]
    own = [
        100 * (0.22 + 0.03 * (rng.normal(size=(OWN, CLASSES)) + 1.0 * truth)),
        -12 + 4 * (rng.normal(size=(OWN, CLASSES)) + 2.0 * truth),
        rng.normal(size=(OWN, CLASSES)) + 0.3 * truth,
    ]
    others = [
        100 * (0.22 + 0.03 * rng.normal(size=(OTHERS, CLASSES))),
        -12 + 4 * rng.normal(size=(OTHERS, CLASSES)),
        rng.normal(size=(OTHERS, CLASSES)),
    ]
    return own, others, labels


def combine_by_fedray(own: list[Array], others: list[Array], labels: npt.NDArray[np.int64], combine: str) -> Array:
    ensemble = LogitEnsemble.fit([torch.from_numpy(z) for z in own], torch.from_numpy(labels), combine)
    return ensemble([torch.from_numpy(z) for z in others]).numpy()


def center(z: Array) -> Array:
    return z - z.mean(axis=1, keepdims=True)


def rescale_to_first(own: list[Array], others: list[Array]) -> list[Array]:
    sizes = [np.sqrt((center(z) ** 2).mean()) for z in own]
    return [center(z) * sizes[0] / size for z, size in zip(others, sizes, strict=True)]


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class TestByHand:
    def test_mean_logits(self, logits: Logits) -> None:
        own, others, labels = logits
        by_hand = sum(rescale_to_first(own, others)) / 3
        np.testing.assert_allclose(combine_by_fedray(own, others, labels, "mean_logits"), by_hand, rtol=1e-5, atol=1e-5)

    def test_mean_probabilities(self, logits: Logits) -> None:
        """The combined logits are logarithms of the mean probabilities."""
        own, others, labels = logits
        by_hand = sum(softmax(z) for z in rescale_to_first(own, others)) / 3
        combined = combine_by_fedray(own, others, labels, "mean_probabilities")
        np.testing.assert_allclose(np.exp(combined), by_hand, rtol=1e-5)
        np.testing.assert_allclose(softmax(combined), by_hand, rtol=1e-5)

    def test_weighted(self, logits: Logits) -> None:
        own, others, labels = logits
        accuracies = np.array([(z.argmax(axis=1) == labels).mean() for z in own])
        assert len(set(accuracies)) == 3
        by_hand = sum(w * z for w, z in zip(accuracies / accuracies.sum(), rescale_to_first(own, others), strict=True))
        np.testing.assert_allclose(combine_by_fedray(own, others, labels, "weighted"), by_hand, rtol=1e-5, atol=1e-5)

    def test_best_is_the_most_accurate_teacher(self, logits: Logits) -> None:
        own, others, labels = logits
        best = int(np.argmax([(z.argmax(axis=1) == labels).mean() for z in own]))
        assert best == 1
        by_hand = rescale_to_first(own, others)[best]
        np.testing.assert_allclose(combine_by_fedray(own, others, labels, "best"), by_hand, rtol=1e-5, atol=1e-5)

    def test_opposite_logits_cancel_out(self) -> None:
        """The second teacher's logits are ten times as large; on one scale, opposite logits sum to zero."""
        first, second = np.array([[1.0, -1.0], [2.0, -2.0]]), np.array([[10.0, -10.0], [-20.0, 20.0]])
        combined = combine_by_fedray([first, second], [first, second], np.array([0, 0]), "mean_logits")
        np.testing.assert_allclose(combined, [[1, -1], [0, 0]], atol=1e-6)


@pytest.mark.parametrize("combine", COMBINES)
class TestScales:
    @pytest.mark.parametrize("other", [1, 2])
    def test_scale_of_another_teacher_has_no_effect(self, logits: Logits, combine: str, other: int) -> None:
        own, others, labels = logits
        plain = combine_by_fedray(own, others, labels, combine)
        for logits in (own, others):
            logits[other] = 7 * logits[other]
        np.testing.assert_allclose(combine_by_fedray(own, others, labels, combine), plain, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("changed", [0, 1, 2])
    def test_an_offset_per_image_has_no_effect(self, logits: Logits, combine: str, changed: int) -> None:
        own, others, labels = logits
        plain = combine_by_fedray(own, others, labels, combine)
        for logits in (own, others):
            logits[changed] = logits[changed] + 10 * np.arange(len(logits[changed]))[:, None]
        np.testing.assert_allclose(combine_by_fedray(own, others, labels, combine), plain, rtol=1e-5, atol=1e-5)

    def test_the_first_teacher_sets_the_scale(self, logits: Logits, combine: str) -> None:
        own, others, labels = logits
        plain = combine_by_fedray(own, others, labels, combine)
        own[0], others[0] = 7 * own[0], 7 * others[0]
        scaled = combine_by_fedray(own, others, labels, combine)
        if combine == "mean_probabilities":  # not a linear function of logits
            by_hand = sum(softmax(z) for z in rescale_to_first(own, others)) / 3
            np.testing.assert_allclose(np.exp(scaled), by_hand, rtol=1e-4, atol=1e-12)
        else:
            np.testing.assert_allclose(scaled, 7 * plain, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(scaled.argmax(axis=1), plain.argmax(axis=1))

    def test_a_single_teachers_logits_are_unchanged(self, logits: Logits, combine: str) -> None:
        own, others, labels = logits
        np.testing.assert_array_equal(combine_by_fedray(own[:1], others[:1], labels, combine), others[0])

    def test_constant_logits_stay_finite(self, logits: Logits, combine: str) -> None:
        """Equal logits have root mean square 0, by which they cannot be scaled."""
        own, others, labels = logits
        own[1], others[1] = np.ones((OWN, CLASSES)), np.ones((OTHERS, CLASSES))
        assert np.isfinite(combine_by_fedray(own, others, labels, combine)).all()


def test_probabilities_of_extreme_logits_are_finite() -> None:
    own = [1e4 * np.eye(3), -1e4 * np.eye(3)]
    combined = combine_by_fedray(own, own, np.arange(3), "mean_probabilities")
    assert np.isfinite(combined).all()
    np.testing.assert_allclose(np.exp(combined[0]), [0.5, 0.25, 0.25])


def test_teachers_without_accuracy_have_equal_weights(logits: Logits) -> None:
    own, others, labels = logits
    wrong = [z - 1e3 * np.eye(CLASSES)[labels] for z in own]
    weighted = combine_by_fedray(wrong, others, labels, "weighted")
    np.testing.assert_allclose(weighted, combine_by_fedray(wrong, others, labels, "mean_logits"), rtol=1e-5)


def test_a_teacher_without_accuracy_has_no_weight(logits: Logits) -> None:
    own, others, labels = logits
    own = [own[0], own[1] - 1e3 * np.eye(CLASSES)[labels]]
    combined = combine_by_fedray(own, others[:2], labels, "weighted")
    np.testing.assert_allclose(combined, center(others[0]), rtol=1e-5, atol=1e-5)
