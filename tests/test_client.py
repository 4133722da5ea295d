"""The SGD loop against a second, plainer one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedray.client import Normalization, Seen, Shard, batches, learning_rate, local_update, mixed, split
from fedray.config import Training
from fedray.data.views import apply_views, choose_views
from fedray.models.projection import Projected
from fedray.seeding import numpy_rng
from fedray.types import Term

N, CLASSES = 23, 3


WIDTH = 4
RNG = np.random.default_rng(2)
TAUGHT = {
    "logits": torch.from_numpy(RNG.normal(size=(N, CLASSES)).astype(np.float32)),
    "features": torch.from_numpy(RNG.normal(size=(N, WIDTH)).astype(np.float32)),
}


class Told:
    """Lessons that look up what is taught, and remember what they were asked."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen) -> dict[str, torch.Tensor]:
        self.seen.append(seen)
        return {name: answers[seen.chosen] for name, answers in TAUGHT.items()}


def make_shard(lessons: Told | None = None, *, crop_flip: bool = False, mixup: float = 0.0) -> Shard:
    rng = np.random.default_rng(1)
    return Shard(
        torch.from_numpy(rng.integers(0, 256, (N, 1, 6, 6), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, CLASSES, N)),
        rng.permutation(100)[:N],
        Normalization(torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 0.25)),
        lessons,
        crop_flip,
        mixup,
    )


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, CLASSES))


TRAINING = Training(
    local_epochs=2, batch_size=5, lr=0.1, momentum=0.9, weight_decay=0.01, decay_every=4, decay_factor=0.5
)


def plain_sgd(model: nn.Module, shard: Shard, loss_of: Any, first_epoch: int) -> list[float]:
    """Momentum SGD written out: v = 0.9 v + (g + wd w), w -= lr v. Returns the loss of each step."""
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    seen = []
    for epoch in (first_epoch, first_epoch + 1):
        order = numpy_rng(7, "order", 3, epoch).permutation(N)
        lr = 0.1 * 0.5 ** (epoch // 4)
        for start in range(0, N, 5):
            chosen = order[start : start + 5]
            x = (shard.images[chosen].float() / 255 - 0.5) / 0.25
            loss = loss_of(model(x), shard.labels[chosen], chosen)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g, v in zip(model.parameters(), gradients, velocity, strict=True):
                    v.mul_(0.9).add_(g + 0.01 * p)
                    p.sub_(lr * v)
            seen.append(loss.item() * len(chosen))
    return seen


def test_cross_entropy_epochs_agree_with_plain_sgd() -> None:
    shard, ours, plain = make_shard(), make_model(), make_model()
    metrics = local_update(
        {"proxy": ours}, {"proxy": [Term("cross_entropy")]}, shard, TRAINING, first_epoch=3, seed=7, client=3
    )
    seen = plain_sgd(plain, shard, lambda z, y, _: nn.functional.cross_entropy(z, y), first_epoch=3)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert metrics["loss_cross_entropy"] == pytest.approx(sum(seen) / (2 * N), rel=1e-5)


def test_distillation_epochs_agree_with_plain_sgd() -> None:
    shard, ours, plain = make_shard(Told()), make_model(), make_model()

    def loss_of(z: torch.Tensor, y: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        p, q = torch.softmax(TAUGHT["logits"][chosen] / 2, 1), torch.softmax(z / 2, 1)
        return 0.7 * -torch.log_softmax(z, 1)[range(len(y)), y].mean() + 0.3 * 4 * (p * (p / q).log()).sum(1).mean()

    terms = [Term("cross_entropy", 0.7), Term("kd", 0.3, {"temperature": 2.0})]
    local_update({"proxy": ours}, {"proxy": terms}, shard, TRAINING, first_epoch=0, seed=7, client=3)
    plain_sgd(plain, shard, loss_of, first_epoch=0)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def make_smooth_model() -> nn.Sequential:
    """Where ReLU leaves no feature at all, a cosine written out is not a number."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, CLASSES))


class WithFeatures(nn.Module):
    """The same model and a projection, taken apart so that each layer's output can be had."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make_smooth_model()
        torch.manual_seed(5)
        self.projection = nn.Linear(8, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.layers[:3](x)
        return self.layers[3](hidden), hidden @ self.projection.weight.T


def one_minus_cosine(own: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    lengths = (own.square().sum(1) * taught.square().sum(1)).sqrt()
    return 1 - ((own * taught).sum(1) / lengths).mean()


def mean_square(own: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    return (own - taught / taught.square().mean(1, keepdim=True).sqrt()).square().mean()


@pytest.mark.parametrize(("name", "distance"), [("cosine", one_minus_cosine), ("feature_mse", mean_square)])
def test_epochs_of_a_feature_loss_agree_with_plain_sgd_on_proxy_and_projection(name: str, distance: Any) -> None:
    shard, plain = make_shard(Told()), WithFeatures()
    ours = Projected(make_smooth_model(), CLASSES)
    with torch.no_grad():
        start = ours.begin(WIDTH).weight.copy_(plain.projection.weight).clone()

    def loss_of(z: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        logits, projected = z
        supervised = -torch.log_softmax(logits, 1)[range(len(y)), y].mean()
        return 0.6 * supervised + 0.4 * distance(projected, TAUGHT["features"][chosen])

    terms = [Term("cross_entropy", 0.6), Term(name, 0.4, {"temperature": 1.0})]
    metrics = local_update({"proxy": ours}, {"proxy": terms}, shard, TRAINING, first_epoch=3, seed=7, client=3)
    seen = plain_sgd(plain, shard, loss_of, first_epoch=3)
    assert torch.allclose(ours.projection.weight, plain.projection.weight, atol=1e-5)
    assert not torch.allclose(ours.projection.weight, start, atol=1e-2)
    for a, b in zip(ours.proxy.parameters(), plain.layers.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    both = 0.6 * metrics["loss_cross_entropy"] + 0.4 * metrics[f"loss_{name}"]
    assert both == pytest.approx(sum(seen) / (2 * N), rel=1e-4)


def test_mutual_learning_agrees_with_two_separate_backward_passes() -> None:
    shard, pair = make_shard(), {"proxy": make_model(0), "private": make_model(1)}
    objectives = {
        "proxy": [Term("cross_entropy", 0.4), Term("mutual", 0.6)],
        "private": [Term("cross_entropy", 0.5), Term("mutual", 0.5)],
    }
    training = Training(local_epochs=1, batch_size=5, lr=0.1, momentum=0.0, weight_decay=0.0)
    local_update(pair, objectives, shard, training, first_epoch=0, seed=7, client=3)

    meme, local = make_model(0), make_model(1)
    for chosen in np.split(numpy_rng(7, "order", 3, 0).permutation(N), range(5, N, 5)):
        x, y = (shard.images[chosen].float() / 255 - 0.5) / 0.25, shard.labels[chosen]
        meme_logits, local_logits = meme(x), local(x)
        kl = nn.KLDivLoss(reduction="batchmean")
        p_meme, p_local = torch.softmax(meme_logits, 1).detach(), torch.softmax(local_logits, 1).detach()
        meme_loss = 0.4 * nn.functional.cross_entropy(meme_logits, y) + 0.6 * kl(meme_logits.log_softmax(1), p_local)
        local_loss = 0.5 * nn.functional.cross_entropy(local_logits, y) + 0.5 * kl(local_logits.log_softmax(1), p_meme)
        for model, loss in ((meme, meme_loss), (local, local_loss)):
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p.sub_(0.1 * g)
    for ours, plain in ((pair["proxy"], meme), (pair["private"], local)):
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_proximal_pulls_towards_the_received_weights() -> None:
    start = [p.detach().clone() for p in make_model().parameters()]
    distances = []
    for mu in (0.0, 1.0, 10.0):
        model = make_model()
        terms = [Term("cross_entropy"), Term("proximal", mu)]
        training = Training(local_epochs=5, batch_size=5, lr=0.05)
        local_update({"proxy": model}, {"proxy": terms}, make_shard(), training, first_epoch=0, seed=7, client=3)
        distances.append(sum(((p - q) ** 2).sum().item() for p, q in zip(model.parameters(), start, strict=True)))
    assert distances[0] > distances[1] > distances[2]


def test_local_accuracy_counts_the_last_epoch_while_it_trains() -> None:
    shard, model = make_shard(), make_model()
    frozen = Training(local_epochs=3, batch_size=5, lr=1e-12, weight_decay=0)
    metrics = local_update(
        {"proxy": model}, {"proxy": [Term("cross_entropy")]}, shard, frozen, first_epoch=0, seed=7, client=3
    )
    predictions = model((shard.images.float() / 255 - 0.5) / 0.25).argmax(1)
    assert metrics["local_accuracy"] == pytest.approx((predictions == shard.labels).float().mean().item())


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.1), (199, 0.1), (200, 0.01), (399, 0.01), (400, 0.001), (599, 0.001)]
)
def test_learning_rate_decays_by_cumulative_epoch(epoch: int, expected: float) -> None:
    training = Training(lr=0.1, decay_every=200, decay_factor=0.1)
    assert learning_rate(training, epoch) == pytest.approx(expected)
    assert learning_rate(Training(lr=0.1), epoch) == 0.1


def test_no_batch_holds_a_single_example_unless_it_must() -> None:
    assert [len(b) for b in split(np.arange(11), 5)] == [5, 6]
    assert [len(b) for b in split(np.arange(12), 5)] == [5, 5, 2]
    assert [len(b) for b in split(np.arange(10), 5)] == [5, 5]
    assert [len(b) for b in split(np.arange(1), 5)] == [1]
    assert [len(b) for b in split(np.arange(3), 1)] == [1, 1, 1]


def test_batches_show_every_example_once_in_its_view_of_the_epoch() -> None:
    shard = make_shard(crop_flip=True)
    views = apply_views(shard.images, torch.from_numpy(choose_views(shard.examples, seed=7, epoch=4)))
    expected = {((v.float() / 255 - 0.5) / 0.25).numpy().tobytes() for v in views}
    seen = list(batches(shard, TRAINING, seed=7, client=3, epoch=4))
    images = [image.contiguous().numpy().tobytes() for batch in seen for image in batch.images]
    assert len(images) == N
    assert set(images) == expected


def test_lessons_are_asked_about_plain_images_and_the_views_that_the_proxy_sees() -> None:
    lessons = Told()
    shard = make_shard(lessons, crop_flip=True)
    seen = list(batches(shard, TRAINING, seed=7, client=3, epoch=4))
    assert len(lessons.seen) == len(seen) == 5
    for asked, batch in zip(lessons.seen, seen, strict=True):
        assert (asked.epoch, asked.mix) == (4, 1.0)
        assert torch.equal(asked.plain, shard.images[asked.chosen])
        views = choose_views(shard.examples[asked.chosen.numpy()], seed=7, epoch=4)
        assert torch.equal(asked.views, apply_views(asked.plain, torch.from_numpy(views)))
        assert not torch.equal(asked.views, asked.plain)
        assert torch.equal(batch.images, (asked.views.float() / 255 - 0.5) / 0.25)
        assert torch.equal(batch.labels, shard.labels[asked.chosen])
        assert torch.equal(batch.taught["logits"], TAUGHT["logits"][asked.chosen])
        assert torch.equal(batch.taught["features"], TAUGHT["features"][asked.chosen])
    assert sorted(torch.cat([asked.chosen for asked in lessons.seen]).tolist()) == list(range(N))


def test_without_crop_and_flip_the_views_are_the_plain_images() -> None:
    lessons = Told()
    for _ in batches(make_shard(lessons), TRAINING, seed=7, client=3, epoch=4):
        assert torch.equal(lessons.seen[-1].views, lessons.seen[-1].plain)


def test_without_lessons_nothing_is_taught() -> None:
    assert all(not batch.taught for batch in batches(make_shard(), TRAINING, seed=7, client=3, epoch=4))


@pytest.mark.parametrize("crop_flip", [False, True])
def test_mixup_gives_each_image_its_share_and_the_rest_to_the_one_before_it(crop_flip: bool) -> None:
    lessons = Told()
    shard = make_shard(lessons, crop_flip=crop_flip, mixup=1.0)
    for batch in batches(shard, TRAINING, seed=7, client=3, epoch=4):
        asked = lessons.seen[-1]
        views = (asked.views.numpy().astype(np.float64) / 255 - 0.5) / 0.25
        expected = np.stack([asked.mix * views[i] + (1 - asked.mix) * views[i - 1] for i in range(len(views))])
        np.testing.assert_allclose(batch.images.numpy(), expected, atol=1e-6)
        assert torch.equal(batch.labels, shard.labels[asked.chosen])  # the share is at least a half


def shares(mixup: float = 1.0, *, seed: int = 7, client: int = 3, epoch: int = 4) -> list[float]:
    lessons = Told()
    list(batches(make_shard(lessons, mixup=mixup), TRAINING, seed=seed, client=client, epoch=epoch))
    return [asked.mix for asked in lessons.seen]


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
    mixing, plain = Told(), Told()
    for lessons, mixup in ((mixing, 1.0), (plain, 0.0)):
        list(batches(make_shard(lessons, mixup=mixup), TRAINING, seed=7, client=3, epoch=4))
    for a, b in zip(mixing.seen, plain.seen, strict=True):
        assert torch.equal(a.chosen, b.chosen)
        assert (b.mix, a.mix < 1) == (1.0, True)
    alone = torch.rand(1, 3, 4, 4)
    assert torch.allclose(mixed(alone, 0.6), alone)


def test_without_mixup_images_are_not_even_copied() -> None:
    images = torch.rand(4, 3, 4, 4)
    assert mixed(images, 1.0) is images


def test_dropout_depends_on_seed_client_and_epoch_only() -> None:
    def trained(global_seed: int, client: int) -> torch.Tensor:
        model = nn.Sequential(make_model(), nn.Dropout(0.5))
        torch.manual_seed(global_seed)
        local_update(
            {"proxy": model},
            {"proxy": [Term("cross_entropy")]},
            make_shard(),
            TRAINING,
            first_epoch=0,
            seed=7,
            client=client,
        )
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(1, client=3), trained(2, client=3))
    assert not torch.equal(trained(1, client=3), trained(1, client=4))
