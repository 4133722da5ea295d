"""What a batch is taught: the bank's rows of its epoch, or teachers that are asked beside it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedray.teachers.ensemble import LogitEnsemble
from fedray.teachers.targets import CachedTargets, OnlineTargets
from fedray.teachers.teacher import Teacher
from fedray.training.batches import AugmentedBatch

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
PLAIN, VIEWS = (torch.from_numpy(RNG.integers(0, 256, (4, 1, 3, 3), dtype=np.uint8)) for _ in range(2))


def seen(epoch: int = 0, chosen: tuple[int, ...] = (2, 0, 5, 2), mix: float = 1.0) -> AugmentedBatch:
    return AugmentedBatch(epoch, torch.tensor(chosen), PLAIN, VIEWS, mix)


def lessons(epochs: int, width: int = 3) -> Any:
    """[epochs, 6 examples, width], all different."""
    return np.arange(epochs * 6 * width, dtype=np.float32).reshape(epochs, 6, width)


def teacher(seed: int = 0) -> Teacher:
    """Squares pixels, so that it matters whether images or their squares are mixed."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(9, 3)
    head.weight.data, head.bias.data = torch.randn(3, 9, generator=generator), torch.randn(3, generator=generator)
    return Teacher("square", lambda images: images.float() / 255, _Square(), head.requires_grad_(False), CPU, 4)


def by_hand(images: Tensor, mix: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    """Features and logits in numpy and float64, image by image."""
    head = teacher(seed).head
    weight, bias = head.weight.double().numpy(), head.bias.double().numpy()
    scaled = images.double().numpy().reshape(4, 9) / 255
    mixed = np.stack([mix * scaled[i] + (1 - mix) * scaled[i - 1] for i in range(4)])
    return mixed**2, mixed**2 @ weight.T + bias


class _Square(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).square()


class TestBanked:
    @pytest.mark.parametrize("epoch", [0, 1, 17])
    def test_one_answer_for_all_epochs(self, epoch: int) -> None:
        targets = CachedTargets({"logits": lessons(1)}, 0, CPU)(seen(epoch))
        assert targets["logits"].tolist() == lessons(1)[0, [2, 0, 5, 2]].tolist()

    def test_each_epoch_of_the_round_has_its_own(self) -> None:
        """Round 5 of 3 epochs: its first is epoch 12, counted over all rounds."""
        banked = CachedTargets({"logits": lessons(3)}, 12, CPU)
        for place, epoch in enumerate((12, 13, 14)):
            assert banked(seen(epoch))["logits"].tolist() == lessons(3)[place, [2, 0, 5, 2]].tolist()

    def test_logits_and_features_together(self) -> None:
        banked = CachedTargets({"logits": lessons(1), "features": lessons(1, 8)}, 0, CPU)
        targets = banked(seen(3))
        assert banked.width == 8
        assert targets["logits"].shape == (4, 3)
        assert targets["features"].tolist() == lessons(1, 8)[0, [2, 0, 5, 2]].tolist()

    def test_read_only_arrays_as_rays_are(self) -> None:
        values = lessons(1)
        values.flags.writeable = False
        assert CachedTargets({"logits": values}, 0, CPU)(seen())["logits"].dtype == torch.float32


class TestOnline:
    @pytest.mark.parametrize("proxy_view", [False, True])
    @pytest.mark.parametrize("mix", [1.0, 0.7])
    def test_asks_about_the_very_images(self, proxy_view: bool, mix: float) -> None:
        online = OnlineTargets([teacher()], None, ["features", "logits"], proxy_view, 1)
        targets = online(seen(mix=mix))
        features, logits = by_hand(VIEWS if proxy_view else PLAIN, mix)
        np.testing.assert_allclose(targets["features"], features, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(targets["logits"], logits, rtol=1e-5, atol=1e-5)

    def test_answers_what_is_asked_and_no_more(self) -> None:
        assert OnlineTargets([teacher()], None, ["features"], False, 1)(seen()).keys() == {"features"}
        assert OnlineTargets([teacher()], None, ["logits"], False, 1)(seen()).keys() == {"logits"}

    def test_counts_passes_and_seconds(self) -> None:
        online = OnlineTargets(
            [teacher(), teacher(1)], LogitEnsemble((1.0, 1.0), (0.5, 0.5), False), ["logits"], True, 1
        )
        for _ in range(3):
            online(seen())
        assert online.passes == 3 * 4 * 2
        assert online.seconds > 0

    def test_several_become_one(self) -> None:
        """Mean of logits, each less its mean over the classes, the second scaled by 2."""
        online = OnlineTargets(
            [teacher(), teacher(1)], LogitEnsemble((1.0, 2.0), (0.25, 0.75), False), ["logits"], True, 1
        )
        first, second = (by_hand(VIEWS, seed=seed)[1] for seed in (0, 1))
        expected = 0.25 * (first - first.mean(1, keepdims=True)) + 1.5 * (second - second.mean(1, keepdims=True))
        np.testing.assert_allclose(online(seen())["logits"], expected, rtol=1e-5, atol=1e-5)

    def test_its_width_is_its_features(self) -> None:
        assert OnlineTargets([teacher()], None, ["features"], False, 1).width == 9
