"""How a client's teachers become one, against numpy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fedray.teachers.ensemble import LogitEnsemble

COMBINES = ("mean_logits", "mean_probabilities", "weighted", "best")
OWN, ASKED, CLASSES = 40, 6, 5
Array = npt.NDArray[np.float64]
Spoken = tuple[list[Array], list[Array], npt.NDArray[np.int64]]


@pytest.fixture
def spoken() -> Spoken:
    """Three teachers' logits for the client's own images and for others, and the labels of its own.

    They speak as CLIP does (cosines times 100), as SigLIP does (log-odds, far below 0) and as classifiers do.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, OWN)
    truth = np.eye(CLASSES)[labels]
    own = [
        100 * (0.22 + 0.03 * (rng.normal(size=(OWN, CLASSES)) + 1.0 * truth)),
        -12 + 4 * (rng.normal(size=(OWN, CLASSES)) + 2.0 * truth),
        rng.normal(size=(OWN, CLASSES)) + 0.3 * truth,
    ]
    asked = [
        100 * (0.22 + 0.03 * rng.normal(size=(ASKED, CLASSES))),
        -12 + 4 * rng.normal(size=(ASKED, CLASSES)),
        rng.normal(size=(ASKED, CLASSES)),
    ]
    return own, asked, labels


def blended(own: list[Array], asked: list[Array], labels: npt.NDArray[np.int64], combine: str) -> Array:
    blend = LogitEnsemble.fit([torch.from_numpy(z) for z in own], torch.from_numpy(labels), combine)
    return blend([torch.from_numpy(z) for z in asked]).numpy()


def centred(z: Array) -> Array:
    return z - z.mean(axis=1, keepdims=True)


def on_the_firsts_scale(own: list[Array], asked: list[Array]) -> list[Array]:
    sizes = [np.sqrt((centred(z) ** 2).mean()) for z in own]
    return [centred(z) * sizes[0] / size for z, size in zip(asked, sizes, strict=True)]


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class TestByHand:
    def test_mean_logits(self, spoken: Spoken) -> None:
        own, asked, labels = spoken
        by_hand = sum(on_the_firsts_scale(own, asked)) / 3
        np.testing.assert_allclose(blended(own, asked, labels, "mean_logits"), by_hand, rtol=1e-5, atol=1e-5)

    def test_mean_probabilities(self, spoken: Spoken) -> None:
        """What comes out are their logarithms, whose softmax they are."""
        own, asked, labels = spoken
        by_hand = sum(softmax(z) for z in on_the_firsts_scale(own, asked)) / 3
        found = blended(own, asked, labels, "mean_probabilities")
        np.testing.assert_allclose(np.exp(found), by_hand, rtol=1e-5)
        np.testing.assert_allclose(softmax(found), by_hand, rtol=1e-5)

    def test_weighted(self, spoken: Spoken) -> None:
        own, asked, labels = spoken
        right = np.array([(z.argmax(axis=1) == labels).mean() for z in own])
        assert len(set(right)) == 3
        by_hand = sum(w * z for w, z in zip(right / right.sum(), on_the_firsts_scale(own, asked), strict=True))
        np.testing.assert_allclose(blended(own, asked, labels, "weighted"), by_hand, rtol=1e-5, atol=1e-5)

    def test_best_is_the_one_that_is_most_often_right(self, spoken: Spoken) -> None:
        own, asked, labels = spoken
        best = int(np.argmax([(z.argmax(axis=1) == labels).mean() for z in own]))
        assert best == 1
        by_hand = on_the_firsts_scale(own, asked)[best]
        np.testing.assert_allclose(blended(own, asked, labels, "best"), by_hand, rtol=1e-5, atol=1e-5)

    def test_two_images_in_the_head(self) -> None:
        """The second teacher speaks ten times as loud; on one scale they cancel out where they disagree."""
        first, second = np.array([[1.0, -1.0], [2.0, -2.0]]), np.array([[10.0, -10.0], [-20.0, 20.0]])
        found = blended([first, second], [first, second], np.array([0, 0]), "mean_logits")
        np.testing.assert_allclose(found, [[1, -1], [0, 0]], atol=1e-6)


@pytest.mark.parametrize("combine", COMBINES)
class TestScales:
    @pytest.mark.parametrize("other", [1, 2])
    def test_how_loud_another_teacher_speaks_changes_nothing(self, spoken: Spoken, combine: str, other: int) -> None:
        own, asked, labels = spoken
        plain = blended(own, asked, labels, combine)
        for logits in (own, asked):
            logits[other] = 7 * logits[other]
        np.testing.assert_allclose(blended(own, asked, labels, combine), plain, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("changed", [0, 1, 2])
    def test_a_constant_for_each_image_changes_nothing(self, spoken: Spoken, combine: str, changed: int) -> None:
        own, asked, labels = spoken
        plain = blended(own, asked, labels, combine)
        for logits in (own, asked):
            logits[changed] = logits[changed] + 10 * np.arange(len(logits[changed]))[:, None]
        np.testing.assert_allclose(blended(own, asked, labels, combine), plain, rtol=1e-5, atol=1e-5)

    def test_the_first_teacher_sets_the_scale(self, spoken: Spoken, combine: str) -> None:
        own, asked, labels = spoken
        plain = blended(own, asked, labels, combine)
        own[0], asked[0] = 7 * own[0], 7 * asked[0]
        louder = blended(own, asked, labels, combine)
        if combine == "mean_probabilities":  # is not linear
            by_hand = sum(softmax(z) for z in on_the_firsts_scale(own, asked)) / 3
            np.testing.assert_allclose(np.exp(louder), by_hand, rtol=1e-4, atol=1e-12)
        else:
            np.testing.assert_allclose(louder, 7 * plain, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(louder.argmax(axis=1), plain.argmax(axis=1))

    def test_a_single_teachers_logits_stay_as_they_are(self, spoken: Spoken, combine: str) -> None:
        own, asked, labels = spoken
        np.testing.assert_array_equal(blended(own[:1], asked[:1], labels, combine), asked[0])

    def test_a_teacher_that_says_nothing_is_left_at_that(self, spoken: Spoken, combine: str) -> None:
        """Its logits are all alike, and so have no size to scale by."""
        own, asked, labels = spoken
        own[1], asked[1] = np.ones((OWN, CLASSES)), np.ones((ASKED, CLASSES))
        assert np.isfinite(blended(own, asked, labels, combine)).all()


def test_probabilities_of_extreme_logits_are_finite() -> None:
    own = [1e4 * np.eye(3), -1e4 * np.eye(3)]
    found = blended(own, own, np.arange(3), "mean_probabilities")
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found[0]), [0.5, 0.25, 0.25])


def test_teachers_that_are_never_right_weigh_the_same(spoken: Spoken) -> None:
    own, asked, labels = spoken
    wrong = [z - 1e3 * np.eye(CLASSES)[labels] for z in own]
    weighted = blended(wrong, asked, labels, "weighted")
    np.testing.assert_allclose(weighted, blended(wrong, asked, labels, "mean_logits"), rtol=1e-5)


def test_one_that_is_never_right_has_no_weight(spoken: Spoken) -> None:
    own, asked, labels = spoken
    own = [own[0], own[1] - 1e3 * np.eye(CLASSES)[labels]]
    found = blended(own, asked[:2], labels, "weighted")
    np.testing.assert_allclose(found, centred(asked[0]), rtol=1e-5, atol=1e-5)
