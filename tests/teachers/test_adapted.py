"""A teacher fitted on one client's examples: its head against SGD in numpy, its tower by what it learns."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.clip import write_clip
from torch import Tensor, nn

from fedray.data.dataset import Dataset
from fedray.data.federated import FederatedDataset
from fedray.seeding import numpy_rng
from fedray.teachers import adapted, loading, zero_shot
from fedray.teachers.sections import Adapted, Supervised, ZeroShot
from fedray.teachers.teacher import Teacher, frozen

CPU = torch.device("cpu")
CLASSES, WIDTH, SEED, CLIENT = 3, 6, 5, 2
N = 21  # with 5 in a batch the last example would be alone, and so joins the batch before it

Array = npt.NDArray[np.float64]


def spec(**changed: Any) -> Adapted:
    return Adapted.model_validate({"backbone": {"kind": "supervised"}, "batch_size": 5, "epochs": 3} | changed)


def features(count: int = N, size: float = 40.0) -> npt.NDArray[np.float32]:
    return (size * np.random.default_rng(0).normal(size=(count, WIDTH))).astype(np.float32)


def labels(count: int = N) -> npt.NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, CLASSES, count)


def a_head() -> nn.Linear:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, CLASSES)
    frozen(head)
    return head


def probe(
    start: nn.Module | None = None, size: float = 40.0, seed: int = SEED, client: int = CLIENT, **c: Any
) -> Array:
    """[classes, d + 1], bias last."""
    found = adapted.probe(spec(**c), features(size=size), labels(), start or a_head(), CLASSES, seed, client)
    return as_matrix(found)


def as_matrix(head: nn.Linear) -> Array:
    return np.hstack([head.weight.detach().numpy(), head.bias.detach().numpy()[:, None]]).astype(np.float64)


def softmax_regression(
    inputs: Array, start: Array, *, epochs: int, lr: float, momentum: float, weight_decay: float
) -> Array:
    """Momentum SGD on the mean cross-entropy of a batch: v = m v + g + w W, W -= lr v."""
    inputs = np.hstack([inputs, np.ones((N, 1))])
    weights, velocity = start.copy(), np.zeros_like(start)
    for epoch in range(epochs):
        order = numpy_rng(SEED, "order", CLIENT, epoch).permutation(N)
        for chosen in (order[:5], order[5:10], order[10:15], order[15:]):
            scores = inputs[chosen] @ weights.T
            likely = np.exp(scores - scores.max(axis=1, keepdims=True))
            likely /= likely.sum(axis=1, keepdims=True)
            gradient = (likely - np.eye(CLASSES)[labels()[chosen]]).T @ inputs[chosen] / len(chosen)
            velocity = momentum * velocity + gradient + weight_decay * weights
            weights = weights - lr * velocity
    return weights


class TestLinearProbe:
    @pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.0), (0.0, 0.0), (0.5, 0.1)])
    def test_against_numpy(self, momentum: float, weight_decay: float) -> None:
        """Which fits a head on features of mean square 1, and then takes the scale into its weights."""
        scale = np.sqrt((features().astype(np.float64) ** 2).mean())
        assert 30 < scale < 50
        start = as_matrix(a_head()) * ([scale] * WIDTH + [1])
        options = {"epochs": 3, "lr": 0.1, "momentum": momentum, "weight_decay": weight_decay}
        by_hand = softmax_regression(features() / scale, start, **options) / ([scale] * WIDTH + [1])
        np.testing.assert_allclose(probe(**options), by_hand, rtol=1e-4, atol=1e-5)
        assert np.abs(by_hand - as_matrix(a_head())).max() > 0.01

    def test_how_large_features_are_does_not_matter(self) -> None:
        """From zeros, for a head of its own would mean something else to larger features."""
        small, large = (probe(nn.Identity(), size=size, lr=0.1) for size in (0.01, 1000))
        np.testing.assert_allclose(small[:, :-1] * 0.01, large[:, :-1] * 1000, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(small[:, -1], large[:, -1], rtol=1e-3, atol=1e-5)

    def test_features_that_are_all_zero(self) -> None:
        nothing = np.zeros((N, WIDTH), np.float32)
        head = adapted.probe(spec(), nothing, labels(), a_head(), CLASSES, SEED, CLIENT)
        assert np.isfinite(as_matrix(head)).all()

    def test_it_starts_from_the_teachers_own_head(self) -> None:
        np.testing.assert_allclose(probe(lr=1e-9, epochs=1), as_matrix(a_head()), rtol=1e-5, atol=1e-6)

    def test_or_from_zeros_where_that_is_not_linear(self) -> None:
        """As where a class map follows it."""
        mapped = nn.Sequential(nn.Linear(WIDTH, 10), nn.Softmax(dim=1))
        np.testing.assert_allclose(probe(mapped, lr=1e-9, epochs=1), np.zeros((CLASSES, WIDTH + 1)), atol=1e-6)

    def test_the_teachers_own_head_stays_as_it_was(self) -> None:
        start = a_head()
        probe(start, lr=0.1)
        np.testing.assert_array_equal(as_matrix(start), as_matrix(a_head()))

    def test_same_seed_same_bits_and_other_client_or_seed_another_head(self) -> None:
        assert probe().tobytes() == probe().tobytes()
        assert probe().tobytes() != probe(client=CLIENT + 1).tobytes()
        assert probe().tobytes() != probe(seed=SEED + 1).tobytes()

    def test_torchs_own_generator_plays_no_part_and_is_left_alone(self) -> None:
        start = a_head()
        torch.manual_seed(1)
        first, drawn = probe(start), torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(drawn, torch.rand(1))
        assert first.tobytes() == probe(start).tobytes()

    def test_the_head_is_frozen(self) -> None:
        head = adapted.probe(spec(), features(), labels(), a_head(), CLASSES, SEED, CLIENT)
        assert not head.training
        assert not any(parameter.requires_grad for parameter in head.parameters())


def own_data(only: int | None = None) -> Dataset:
    """24 images of three classes, each bright in a channel of its own."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, CLASSES, 24) if only is None else np.full(24, only)
    images = rng.integers(0, 200, (24, CLASSES, 8, 8), dtype=np.uint8)
    images[np.arange(24), found] += 40
    return Dataset("bright", images, found, np.arange(24), None, ("red", "green", "blue"))


def scaled(images: Tensor) -> Tensor:
    return images.float() / 255 - 0.5


def a_teacher() -> Teacher:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Teacher("ours", scaled, frozen(backbone), a_head(), CPU, batch_size=16)


def adapt(base: Teacher, own: Dataset, seed: int = SEED, client: int = CLIENT, **changed: Any) -> Teacher:
    changed = {"lr": 0.1, "epochs": 10} | changed
    return adapted.adapt(spec(**changed), base, own, np.arange(len(own)), seed, client)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def accuracy(teacher: Teacher, data: Dataset) -> float:
    return float((teacher.outputs(data.images)["logits"].argmax(axis=1) == data.labels).mean())


@pytest.mark.parametrize("method", ["linear_probe", "fine_tune"])
class TestBothMethods:
    def test_raise_accuracy_on_the_clients_own_images(self, method: str) -> None:
        base, own = a_teacher(), own_data()
        assert accuracy(base, own) < 0.6
        assert accuracy(adapt(base, own, method=method, epochs=40), own) > 0.85

    def test_leave_the_base_as_it_was(self, method: str) -> None:
        base, own = a_teacher(), own_data()
        before, said = (weights(base.backbone), weights(base.head)), base.outputs(own.images)["logits"]
        adapt(base, own, method=method)
        assert same(before[0], weights(base.backbone))
        assert same(before[1], weights(base.head))
        assert base.outputs(own.images)["logits"].tobytes() == said.tobytes()

    def test_give_a_frozen_teacher(self, method: str) -> None:
        found = adapt(a_teacher(), own_data(), method=method)
        for part in (found.backbone, found.head):
            assert not any(module.training for module in part.modules())
            assert not any(parameter.requires_grad for parameter in part.parameters())

    def test_give_the_same_bits_again_and_another_client_another_teacher(self, method: str) -> None:
        base, own = a_teacher(), own_data()
        first, again, other = (
            adapt(base, own, method=method, client=client).outputs(own.images)["logits"] for client in (2, 2, 3)
        )
        assert first.tobytes() == again.tobytes()
        assert first.tobytes() != other.tobytes()

    def test_work_from_images_of_a_single_class(self, method: str) -> None:
        base, own = a_teacher(), own_data(only=1)
        found = adapt(base, own, method=method)
        assert found.outputs(own.images)["logits"].shape == (24, CLASSES)
        assert accuracy(found, own) == 1

    def test_work_from_a_single_image(self, method: str) -> None:
        own = own_data().take(np.array([0]))
        assert accuracy(adapt(a_teacher(), own, method=method), own) == 1

    def test_work_from_a_head_that_is_not_linear(self, method: str) -> None:
        """Whose place a linear one takes, for as many classes as the data has."""
        base = replace(a_teacher(), head=frozen(nn.Sequential(nn.Linear(WIDTH, 10), nn.LogSoftmax(dim=1))))
        found = adapt(base, own_data(), method=method)
        assert isinstance(found.head, nn.Linear)
        assert found.outputs(own_data().images)["logits"].shape == (24, CLASSES)


def test_a_linear_probe_leaves_features_as_they_are() -> None:
    base, own = a_teacher(), own_data()
    found = adapt(base, own)
    assert found.outputs(own.images)["features"].tobytes() == base.outputs(own.images)["features"].tobytes()


def test_fine_tuning_changes_the_backbone_and_the_head() -> None:
    base, own = a_teacher(), own_data()
    found = adapt(base, own, method="fine_tune")
    for name, weight in base.backbone.named_parameters():
        assert not torch.equal(found.backbone.get_parameter(name), weight), name
    assert not same(weights(found.head), weights(base.head))


def test_fine_tuning_a_clip_moves_the_tower_that_sees_alone(tmp_path: Path) -> None:
    write_clip(tmp_path / "tiny")
    clip = ZeroShot(model=f"local-dir:{tmp_path}/tiny", pretrained=None, batch_size=8)
    base, own = zero_shot.load(clip, own_data().classes, CPU), own_data()
    found = adapt(base, own, method="fine_tune", epochs=2)
    moved = {
        name.removeprefix("model.").split(".")[0]
        for name, weight in base.backbone.named_parameters()
        if not torch.equal(found.backbone.get_parameter(name), weight)
    }
    assert moved == {"visual"}
    assert accuracy(adapt(base, own_data(only=1), method="fine_tune"), own_data(only=1)) == 1


def test_as_the_spec_names_it() -> None:
    """For client 1, from its own examples alone; the base is the stand-in that the public split makes."""
    data = own_data()
    federated = FederatedDataset(
        data, data, (np.arange(8), np.arange(8, 16)), np.arange(16, 24), np.zeros(3, np.float32), np.ones(3, np.float32)
    )
    stand_in = Supervised(epochs=1)
    member = Adapted(backbone=stand_in, epochs=2)
    base = loading.load(stand_in, federated, SEED, CPU)
    for client in (0, 1):
        own = data.take(federated.shards[client])
        by_hand = adapted.adapt(member, base, own, federated.shards[client], SEED, client).outputs(data.images)
        found = loading.load(member, federated, SEED, CPU, client).outputs(data.images)
        assert found["logits"].tobytes() == by_hand["logits"].tobytes()
    head = adapted.probe(
        member, base.outputs(data.images[8:16])["features"], data.labels[8:16], base.head, CLASSES, SEED, 1
    )
    np.testing.assert_allclose(
        found["features"] @ as_matrix(head)[:, :-1].T + as_matrix(head)[:, -1], found["logits"], rtol=1e-4, atol=1e-4
    )
