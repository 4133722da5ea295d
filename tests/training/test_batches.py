"""Order, views, mixtures and targets of batches."""

import math

import numpy as np
import pytest
import torch
from helpers.client_data import TEACHER_OUTPUTS, N, RecordingTargets, make_client_data

from fedray.data.views import apply_views, choose_views
from fedray.training.batches import batches, mixup, split_batches
from fedray.training.sections import Training

TRAINING = Training(batch_size=5)


def test_last_batch_of_one_is_merged_into_the_batch_before_it() -> None:
    assert [len(b) for b in split_batches(torch.arange(11), 5)] == [5, 6]
    assert [len(b) for b in split_batches(torch.arange(12), 5)] == [5, 5, 2]
    assert [len(b) for b in split_batches(torch.arange(10), 5)] == [5, 5]
    assert [len(b) for b in split_batches(torch.arange(1), 5)] == [1]
    assert [len(b) for b in split_batches(torch.arange(3), 1)] == [1, 1, 1]


def test_epoch_has_every_example_once_in_its_view() -> None:
    data = make_client_data(crop_flip=True)
    views = apply_views(data.images, torch.from_numpy(choose_views(data.examples, seed=7, epoch=4)))
    expected = {((v.float() / 255 - 0.5) / 0.25).numpy().tobytes() for v in views}
    epoch = list(batches(data, TRAINING, seed=7, client=3, epoch=4))
    images = [image.contiguous().numpy().tobytes() for batch in epoch for image in batch.images]
    assert len(images) == N
    assert set(images) == expected


def test_targets_get_plain_images_and_the_proxys_views() -> None:
    targets = RecordingTargets()
    data = make_client_data(targets, crop_flip=True)
    epoch = list(batches(data, TRAINING, seed=7, client=3, epoch=4))
    assert len(targets.batches) == len(epoch) == 5
    for augmented, batch in zip(targets.batches, epoch, strict=True):
        assert (augmented.epoch, augmented.mix) == (4, 1.0)
        assert torch.equal(augmented.plain, data.images[augmented.positions])
        views = choose_views(data.examples[augmented.positions.numpy()], seed=7, epoch=4)
        assert torch.equal(augmented.views, apply_views(augmented.plain, torch.from_numpy(views)))
        assert not torch.equal(augmented.views, augmented.plain)
        assert torch.equal(batch.images, (augmented.views.float() / 255 - 0.5) / 0.25)
        assert torch.equal(batch.labels, data.labels[augmented.positions])
        assert torch.equal(batch.targets["logits"], TEACHER_OUTPUTS["logits"][augmented.positions])
        assert torch.equal(batch.targets["features"], TEACHER_OUTPUTS["features"][augmented.positions])
    assert sorted(torch.cat([augmented.positions for augmented in targets.batches]).tolist()) == list(range(N))


def test_views_are_plain_images_without_crop_and_flip() -> None:
    targets = RecordingTargets()
    for _ in batches(make_client_data(targets), TRAINING, seed=7, client=3, epoch=4):
        assert torch.equal(targets.batches[-1].views, targets.batches[-1].plain)


def test_batches_without_a_teacher_have_no_targets() -> None:
    assert all(not batch.targets for batch in batches(make_client_data(), TRAINING, seed=7, client=3, epoch=4))


@pytest.mark.parametrize("crop_flip", [False, True])
def test_mixup_combines_each_image_with_the_one_before_it(crop_flip: bool) -> None:
    targets = RecordingTargets()
    data = make_client_data(targets, crop_flip=crop_flip, mixup=1.0)
    for batch in batches(data, TRAINING, seed=7, client=3, epoch=4):
        augmented = targets.batches[-1]
        views = (augmented.views.numpy().astype(np.float64) / 255 - 0.5) / 0.25
        expected = np.stack([augmented.mix * views[i] + (1 - augmented.mix) * views[i - 1] for i in range(len(views))])
        np.testing.assert_allclose(batch.images.numpy(), expected, atol=1e-6)
        assert torch.equal(
            batch.labels, data.labels[augmented.positions]
        )  # as the image's own weight is at least a half


def mixup_weights(mixup: float = 1.0, *, seed: int = 7, client: int = 3, epoch: int = 4) -> list[float]:
    targets = RecordingTargets()
    list(batches(make_client_data(targets, mixup=mixup), TRAINING, seed=seed, client=client, epoch=epoch))
    return [augmented.mix for augmented in targets.batches]


def test_mixup_weights_depend_on_seed_client_epoch_and_batch() -> None:
    weights = mixup_weights()
    assert all(0.5 <= weight < 1 for weight in weights)
    assert len(set(weights)) == 5
    assert mixup_weights() == weights
    others = [mixup_weights(seed=8), mixup_weights(client=4), mixup_weights(epoch=5), weights]
    assert len({weight for batch_weights in others for weight in batch_weights}) == 20


def test_mixup_weights_follow_the_beta_distribution() -> None:
    uniform = np.concatenate([mixup_weights(1.0, epoch=epoch) for epoch in range(200)])
    extreme = np.concatenate([mixup_weights(0.1, epoch=epoch) for epoch in range(200)])
    assert uniform.mean() == pytest.approx(0.75, abs=0.02)  # uniform on [0.5, 1]: one standard deviation is 0.0046
    # The density of Beta(a, a) near 0 is x^(a - 1) Γ(2a) / Γ(a)², and the same near 1.
    share_near_ends = 2 * 0.01**0.1 / 0.1 * math.gamma(0.2) / math.gamma(0.1) ** 2
    assert (extreme > 0.99).mean() == pytest.approx(share_near_ends, abs=0.06)  # one standard deviation is 0.015


def test_mixup_changes_neither_the_order_nor_a_batch_of_one() -> None:
    mixing, plain = RecordingTargets(), RecordingTargets()
    for targets, share in ((mixing, 1.0), (plain, 0.0)):
        list(batches(make_client_data(targets, mixup=share), TRAINING, seed=7, client=3, epoch=4))
    for mixed, unmixed in zip(mixing.batches, plain.batches, strict=True):
        assert torch.equal(mixed.positions, unmixed.positions)
        assert (unmixed.mix, mixed.mix < 1) == (1.0, True)
    single = torch.rand(1, 3, 4, 4)
    assert torch.allclose(mixup(single, 0.6), single)


def test_mixup_with_weight_one_returns_the_same_tensor() -> None:
    images = torch.rand(4, 3, 4, 4)
    assert mixup(images, 1.0) is images
