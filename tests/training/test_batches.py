"""Batches: their order, their views and mixtures, and what their teachers are asked."""

import math

import numpy as np
import pytest
import torch
from helpers.client_data import TEACHER_OUTPUTS, N, RecordingTargets, make_client_data

from fedray.data.views import apply_views, choose_views
from fedray.training.batches import batches, mixup, split_batches
from fedray.training.sections import Training

TRAINING = Training(batch_size=5)


def test_no_batch_holds_a_single_example_unless_it_must() -> None:
    assert [len(b) for b in split_batches(torch.arange(11), 5)] == [5, 6]
    assert [len(b) for b in split_batches(torch.arange(12), 5)] == [5, 5, 2]
    assert [len(b) for b in split_batches(torch.arange(10), 5)] == [5, 5]
    assert [len(b) for b in split_batches(torch.arange(1), 5)] == [1]
    assert [len(b) for b in split_batches(torch.arange(3), 1)] == [1, 1, 1]


def test_batches_show_every_example_once_in_its_view_of_the_epoch() -> None:
    shard = make_client_data(crop_flip=True)
    views = apply_views(shard.images, torch.from_numpy(choose_views(shard.examples, seed=7, epoch=4)))
    expected = {((v.float() / 255 - 0.5) / 0.25).numpy().tobytes() for v in views}
    seen = list(batches(shard, TRAINING, seed=7, client=3, epoch=4))
    images = [image.contiguous().numpy().tobytes() for batch in seen for image in batch.images]
    assert len(images) == N
    assert set(images) == expected


def test_lessons_are_asked_about_plain_images_and_the_views_that_the_proxy_sees() -> None:
    targets = RecordingTargets()
    shard = make_client_data(targets, crop_flip=True)
    seen = list(batches(shard, TRAINING, seed=7, client=3, epoch=4))
    assert len(targets.batches) == len(seen) == 5
    for asked, batch in zip(targets.batches, seen, strict=True):
        assert (asked.epoch, asked.mix) == (4, 1.0)
        assert torch.equal(asked.plain, shard.images[asked.positions])
        views = choose_views(shard.examples[asked.positions.numpy()], seed=7, epoch=4)
        assert torch.equal(asked.views, apply_views(asked.plain, torch.from_numpy(views)))
        assert not torch.equal(asked.views, asked.plain)
        assert torch.equal(batch.images, (asked.views.float() / 255 - 0.5) / 0.25)
        assert torch.equal(batch.labels, shard.labels[asked.positions])
        assert torch.equal(batch.targets["logits"], TEACHER_OUTPUTS["logits"][asked.positions])
        assert torch.equal(batch.targets["features"], TEACHER_OUTPUTS["features"][asked.positions])
    assert sorted(torch.cat([asked.positions for asked in targets.batches]).tolist()) == list(range(N))


def test_without_crop_and_flip_the_views_are_the_plain_images() -> None:
    targets = RecordingTargets()
    for _ in batches(make_client_data(targets), TRAINING, seed=7, client=3, epoch=4):
        assert torch.equal(targets.batches[-1].views, targets.batches[-1].plain)


def test_without_lessons_nothing_is_taught() -> None:
    assert all(not batch.targets for batch in batches(make_client_data(), TRAINING, seed=7, client=3, epoch=4))


@pytest.mark.parametrize("crop_flip", [False, True])
def test_mixup_gives_each_image_its_share_and_the_rest_to_the_one_before_it(crop_flip: bool) -> None:
    targets = RecordingTargets()
    shard = make_client_data(targets, crop_flip=crop_flip, mixup=1.0)
    for batch in batches(shard, TRAINING, seed=7, client=3, epoch=4):
        asked = targets.batches[-1]
        views = (asked.views.numpy().astype(np.float64) / 255 - 0.5) / 0.25
        expected = np.stack([asked.mix * views[i] + (1 - asked.mix) * views[i - 1] for i in range(len(views))])
        np.testing.assert_allclose(batch.images.numpy(), expected, atol=1e-6)
        assert torch.equal(batch.labels, shard.labels[asked.positions])  # the share is at least a half


def shares(mixup: float = 1.0, *, seed: int = 7, client: int = 3, epoch: int = 4) -> list[float]:
    targets = RecordingTargets()
    list(batches(make_client_data(targets, mixup=mixup), TRAINING, seed=seed, client=client, epoch=epoch))
    return [asked.mix for asked in targets.batches]


def test_shares_are_at_least_a_half_and_drawn_anew_for_each_batch_but_alike_for_seed_client_and_epoch() -> None:
    drawn = shares()
    assert all(0.5 <= share < 1 for share in drawn)
    assert len(set(drawn)) == 5
    assert shares() == drawn
    others = [shares(seed=8), shares(client=4), shares(epoch=5), drawn]
    assert len({share for each in others for share in each}) == 20


def test_shares_follow_the_beta_distribution() -> None:
    even = np.concatenate([shares(1.0, epoch=epoch) for epoch in range(200)])
    extreme = np.concatenate([shares(0.1, epoch=epoch) for epoch in range(200)])
    assert even.mean() == pytest.approx(0.75, abs=0.02)  # uniform on [0.5, 1]: 0.0046 is one deviation
    # The density of Beta(a, a) near 0 is x^(a - 1) Γ(2a) / Γ(a)², and the same near 1.
    either_end = 2 * 0.01**0.1 / 0.1 * math.gamma(0.2) / math.gamma(0.1) ** 2
    assert (extreme > 0.99).mean() == pytest.approx(either_end, abs=0.06)  # 0.015 is one deviation


def test_mixup_leaves_the_order_of_examples_and_a_batch_of_one_as_they_are() -> None:
    mixing, plain = RecordingTargets(), RecordingTargets()
    for targets, share in ((mixing, 1.0), (plain, 0.0)):
        list(batches(make_client_data(targets, mixup=share), TRAINING, seed=7, client=3, epoch=4))
    for a, b in zip(mixing.batches, plain.batches, strict=True):
        assert torch.equal(a.positions, b.positions)
        assert (b.mix, a.mix < 1) == (1.0, True)
    alone = torch.rand(1, 3, 4, 4)
    assert torch.allclose(mixup(alone, 0.6), alone)


def test_without_mixup_images_are_not_even_copied() -> None:
    images = torch.rand(4, 3, 4, 4)
    assert mixup(images, 1.0) is images
