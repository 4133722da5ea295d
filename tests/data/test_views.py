"""The 162 views, compared with a slow crop and flip of single images."""

import numpy as np
import pytest
import torch

from fedray.data.views import VIEWS, apply_views, choose_views


def one_view(image: np.ndarray, view: int) -> np.ndarray:
    """Pad by 4, crop at (top, left), then flip left to right."""
    top, left, flip = view // 18, view % 18 // 2, view % 2
    channels, size, _ = image.shape
    padded = np.zeros((channels, size + 8, size + 8), dtype=image.dtype)
    padded[:, 4 : 4 + size, 4 : 4 + size] = image
    crop = padded[:, top : top + size, left : left + size]
    return crop[:, :, ::-1] if flip else crop


def random_images(count: int, channels: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (count, channels, size, size), dtype=np.uint8)


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 7), (3, 4)])
def test_all_views_are_crops_and_flips(channels: int, size: int) -> None:
    images = random_images(VIEWS, channels, size)
    views = np.random.default_rng(1).permutation(VIEWS)
    augmented = apply_views(torch.from_numpy(images), torch.from_numpy(views))
    assert augmented.dtype == torch.uint8
    assert augmented.shape == images.shape
    expected = np.stack([one_view(image, view) for image, view in zip(images, views, strict=True)])
    np.testing.assert_array_equal(augmented.numpy(), expected)


def test_all_views_of_one_image_differ() -> None:
    image = random_images(1, 3, 16)
    views = apply_views(torch.from_numpy(np.repeat(image, VIEWS, axis=0)), torch.arange(VIEWS))
    assert len({view.numpy().tobytes() for view in views}) == VIEWS == 162


def test_view_80_is_the_image_and_81_its_mirror() -> None:
    images = torch.from_numpy(random_images(2, 3, 8))
    views = apply_views(images, torch.tensor([80, 81]))
    assert torch.equal(views[0], images[0])
    assert torch.equal(views[1], images[1].flip(-1))


def test_apply_views_does_not_change_its_input() -> None:
    images = torch.from_numpy(random_images(4, 3, 8))
    before = images.clone()
    apply_views(images, torch.tensor([0, 17, 99, 161]))
    assert torch.equal(images, before)


def test_view_does_not_depend_on_other_examples() -> None:
    examples = np.arange(1000)
    together = choose_views(examples, seed=5, epoch=2)
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(choose_views(examples[order], seed=5, epoch=2), together[order])
    alone = [choose_views(np.array([example]), seed=5, epoch=2)[0] for example in range(50)]
    assert alone == together[:50].tolist()


def test_seed_and_epoch_change_the_views() -> None:
    examples = np.arange(1000)
    first = choose_views(examples, seed=5, epoch=2)
    for other in (choose_views(examples, seed=6, epoch=2), choose_views(examples, seed=5, epoch=3)):
        # Independent choices agree for one example in 162: 6.2 of 1000, with a standard deviation of 2.5.
        assert (first == other).sum() < 20


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_views_are_uniform(epoch: int) -> None:
    counts = np.bincount(choose_views(np.arange(162 * 200), seed=0, epoch=epoch), minlength=VIEWS)
    assert len(counts) == VIEWS
    chi_square = ((counts - 200) ** 2 / 200).sum()
    # 161 degrees of freedom: mean 161, standard deviation sqrt(322) = 18.
    assert 161 - 5 * 18 < chi_square < 161 + 5 * 18


def test_views_of_one_example_are_uniform_over_epochs() -> None:
    chosen = [int(choose_views(np.array([42]), seed=0, epoch=epoch)[0]) for epoch in range(162 * 20)]
    chi_square = ((np.bincount(chosen, minlength=VIEWS) - 20) ** 2 / 20).sum()
    assert 161 - 5 * 18 < chi_square < 161 + 5 * 18
