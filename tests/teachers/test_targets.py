"""A batch's targets: cached rows of its epoch, or outputs computed online."""

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


def batch(epoch: int = 0, chosen: tuple[int, ...] = (2, 0, 5, 2), mix: float = 1.0) -> AugmentedBatch:
    return AugmentedBatch(epoch, torch.tensor(chosen), PLAIN, VIEWS, mix)


def outputs(epochs: int, width: int = 3) -> Any:
    """[epochs, 6 examples, width], all different."""
    return np.arange(epochs * 6 * width, dtype=np.float32).reshape(epochs, 6, width)


def teacher(seed: int = 0) -> Teacher:
    """A teacher that squares pixels, so that mixing images differs from mixing their features."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(9, 3)
    head.weight.data, head.bias.data = torch.randn(3, 9, generator=generator), torch.randn(3, generator=generator)
    return Teacher("square", lambda images: images.float() / 255, _Square(), head.requires_grad_(False), CPU, 4)


def by_hand(images: Tensor, mix: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    """Compute features and logits in NumPy and float64, image by image."""
    head = teacher(seed).head
    weight, bias = head.weight.double().numpy(), head.bias.double().numpy()
    scaled = images.double().numpy().reshape(4, 9) / 255
    mixed = np.stack([mix * scaled[i] + (1 - mix) * scaled[i - 1] for i in range(4)])
    return mixed**2, mixed**2 @ weight.T + bias


class _Square(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).square()


class TestCached:
    @pytest.mark.parametrize("epoch", [0, 1, 17])
    def test_one_set_of_targets_for_all_epochs(self, epoch: int) -> None:
        targets = CachedTargets({"logits": outputs(1)}, 0, CPU)(batch(epoch))
        assert targets["logits"].tolist() == outputs(1)[0, [2, 0, 5, 2]].tolist()

    def test_each_epoch_has_targets_of_its_own(self) -> None:
        """The first of 3 epochs of round 5 is epoch 12, counted over all rounds."""
        cached = CachedTargets({"logits": outputs(3)}, 12, CPU)
        for index, epoch in enumerate((12, 13, 14)):
            assert cached(batch(epoch))["logits"].tolist() == outputs(3)[index, [2, 0, 5, 2]].tolist()

    def test_logits_and_features_together(self) -> None:
        cached = CachedTargets({"logits": outputs(1), "features": outputs(1, 8)}, 0, CPU)
        targets = cached(batch(3))
        assert cached.width == 8
        assert targets["logits"].shape == (4, 3)
        assert targets["features"].tolist() == outputs(1, 8)[0, [2, 0, 5, 2]].tolist()

    def test_read_only_arrays(self) -> None:
        array = outputs(1)
        array.flags.writeable = False
        assert CachedTargets({"logits": array}, 0, CPU)(batch())["logits"].dtype == torch.float32


class TestOnline:
    @pytest.mark.parametrize("proxy_view", [False, True])
    @pytest.mark.parametrize("mix", [1.0, 0.7])
    def test_targets_are_of_the_mixed_view(self, proxy_view: bool, mix: float) -> None:
        online = OnlineTargets([teacher()], None, ["features", "logits"], proxy_view, 1)
        targets = online(batch(mix=mix))
        features, logits = by_hand(VIEWS if proxy_view else PLAIN, mix)
        np.testing.assert_allclose(targets["features"], features, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(targets["logits"], logits, rtol=1e-5, atol=1e-5)

    def test_only_the_requested_kinds_are_returned(self) -> None:
        assert OnlineTargets([teacher()], None, ["features"], False, 1)(batch()).keys() == {"features"}
        assert OnlineTargets([teacher()], None, ["logits"], False, 1)(batch()).keys() == {"logits"}

    def test_counts_passes_and_seconds(self) -> None:
        online = OnlineTargets(
            [teacher(), teacher(1)], LogitEnsemble((1.0, 1.0), (0.5, 0.5), False), ["logits"], True, 1
        )
        for _ in range(3):
            online(batch())
        assert online.forward_passes == 3 * 4 * 2
        assert online.seconds > 0

    def test_an_ensemble_is_combined(self) -> None:
        """The weighted mean of centered logits, the second teacher's scaled by 2."""
        online = OnlineTargets(
            [teacher(), teacher(1)], LogitEnsemble((1.0, 2.0), (0.25, 0.75), False), ["logits"], True, 1
        )
        first, second = (by_hand(VIEWS, seed=seed)[1] for seed in (0, 1))
        expected = 0.25 * (first - first.mean(1, keepdims=True)) + 1.5 * (second - second.mean(1, keepdims=True))
        np.testing.assert_allclose(online(batch())["logits"], expected, rtol=1e-5, atol=1e-5)

    def test_width_is_the_number_of_features(self) -> None:
        assert OnlineTargets([teacher()], None, ["features"], False, 1).width == 9
