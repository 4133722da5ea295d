"""A teacher adapted to one client: its head equals SGD in NumPy, and fine-tuning raises its accuracy."""

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
N = 21  # in batches of 5: a last batch of one example is merged into the batch before it

Array = npt.NDArray[np.float64]


def section(**changed: Any) -> Adapted:
    return Adapted.model_validate({"backbone": {"kind": "supervised"}, "batch_size": 5, "epochs": 3} | changed)


def features(count: int = N, size: float = 40.0) -> npt.NDArray[np.float32]:
    return (size * np.random.default_rng(0).normal(size=(count, WIDTH))).astype(np.float32)


def labels(count: int = N) -> npt.NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, CLASSES, count)


def base_head() -> nn.Linear:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, CLASSES)
    frozen(head)
    return head


def probe(base: nn.Module | None = None, size: float = 40.0, seed: int = SEED, client: int = CLIENT, **c: Any) -> Array:
    """Return [classes, d + 1], the bias in the last column."""
    head = adapted.probe(section(**c), features(size=size), labels(), base or base_head(), CLASSES, seed, client)
    return as_matrix(head)


def as_matrix(head: nn.Linear) -> Array:
    return np.hstack([head.weight.detach().numpy(), head.bias.detach().numpy()[:, None]]).astype(np.float64)


def softmax_regression(
    inputs: Array, initial: Array, *, epochs: int, lr: float, momentum: float, weight_decay: float
) -> Array:
    """Minimise the mean cross-entropy with momentum SGD: v = m v + g + w W, W -= lr v."""
    inputs = np.hstack([inputs, np.ones((N, 1))])
    weights, velocity = initial.copy(), np.zeros_like(initial)
    for epoch in range(epochs):
        order = numpy_rng(SEED, "order", CLIENT, epoch).permutation(N)
        for chosen in (order[:5], order[5:10], order[10:15], order[15:]):
            scores = inputs[chosen] @ weights.T
            probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            gradient = (probabilities - np.eye(CLASSES)[labels()[chosen]]).T @ inputs[chosen] / len(chosen)
            velocity = momentum * velocity + gradient + weight_decay * weights
            weights = weights - lr * velocity
    return weights


class TestLinearProbe:
    @pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.0), (0.0, 0.0), (0.5, 0.1)])
    def test_equals_sgd_in_numpy(self, momentum: float, weight_decay: float) -> None:
        """The head is fitted to features of mean square 1, then the scale moves into its weights."""
        scale = np.sqrt((features().astype(np.float64) ** 2).mean())
        assert 30 < scale < 50
        initial = as_matrix(base_head()) * ([scale] * WIDTH + [1])
        options = {"epochs": 3, "lr": 0.1, "momentum": momentum, "weight_decay": weight_decay}
        by_hand = softmax_regression(features() / scale, initial, **options) / ([scale] * WIDTH + [1])
        np.testing.assert_allclose(probe(**options), by_hand, rtol=1e-4, atol=1e-5)
        assert np.abs(by_hand - as_matrix(base_head())).max() > 0.01

    def test_scale_of_features_has_no_effect(self) -> None:
        """Starting from zeros: a base head would have other logits for larger features."""
        small, large = (probe(nn.Identity(), size=size, lr=0.1) for size in (0.01, 1000))
        np.testing.assert_allclose(small[:, :-1] * 0.01, large[:, :-1] * 1000, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(small[:, -1], large[:, -1], rtol=1e-3, atol=1e-5)

    def test_zero_features_give_a_finite_head(self) -> None:
        zeros = np.zeros((N, WIDTH), np.float32)
        head = adapted.probe(section(), zeros, labels(), base_head(), CLASSES, SEED, CLIENT)
        assert np.isfinite(as_matrix(head)).all()

    def test_starts_from_the_base_head(self) -> None:
        np.testing.assert_allclose(probe(lr=1e-9, epochs=1), as_matrix(base_head()), rtol=1e-5, atol=1e-6)

    def test_starts_from_zeros_if_the_base_head_is_not_linear(self) -> None:
        """For example with a class map."""
        mapped = nn.Sequential(nn.Linear(WIDTH, 10), nn.Softmax(dim=1))
        np.testing.assert_allclose(probe(mapped, lr=1e-9, epochs=1), np.zeros((CLASSES, WIDTH + 1)), atol=1e-6)

    def test_the_base_head_is_not_changed(self) -> None:
        base = base_head()
        probe(base, lr=0.1)
        np.testing.assert_array_equal(as_matrix(base), as_matrix(base_head()))

    def test_bits_depend_on_seed_and_client_alone(self) -> None:
        assert probe().tobytes() == probe().tobytes()
        assert probe().tobytes() != probe(client=CLIENT + 1).tobytes()
        assert probe().tobytes() != probe(seed=SEED + 1).tobytes()

    def test_the_global_generator_is_neither_read_nor_changed(self) -> None:
        base = base_head()
        torch.manual_seed(1)
        first, drawn = probe(base), torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(drawn, torch.rand(1))
        assert first.tobytes() == probe(base).tobytes()

    def test_the_head_is_frozen(self) -> None:
        head = adapted.probe(section(), features(), labels(), base_head(), CLASSES, SEED, CLIENT)
        assert not head.training
        assert not any(parameter.requires_grad for parameter in head.parameters())


def client_data(only: int | None = None) -> Dataset:
    """24 images of three classes; class k is brighter in channel k."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, CLASSES, 24) if only is None else np.full(24, only)
    images = rng.integers(0, 200, (24, CLASSES, 8, 8), dtype=np.uint8)
    images[np.arange(24), classes] += 40
    return Dataset("bright", images, classes, np.arange(24), None, ("red", "green", "blue"))


def scaled(images: Tensor) -> Tensor:
    return images.float() / 255 - 0.5


def base_teacher() -> Teacher:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Teacher("ours", scaled, frozen(backbone), base_head(), CPU, batch_size=16)


def adapt(base: Teacher, data: Dataset, seed: int = SEED, client: int = CLIENT, **changed: Any) -> Teacher:
    changed = {"lr": 0.1, "epochs": 10} | changed
    return adapted.adapt(section(**changed), base, data, np.arange(len(data)), seed, client)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def accuracy(teacher: Teacher, data: Dataset) -> float:
    return float((teacher.outputs(data.images)["logits"].argmax(axis=1) == data.labels).mean())


@pytest.mark.parametrize("method", ["linear_probe", "fine_tune"])
class TestBothMethods:
    def test_accuracy_on_the_clients_images_rises(self, method: str) -> None:
        base, data = base_teacher(), client_data()
        assert accuracy(base, data) < 0.6
        assert accuracy(adapt(base, data, method=method, epochs=40), data) > 0.85

    def test_the_base_teacher_is_not_changed(self, method: str) -> None:
        base, data = base_teacher(), client_data()
        before, logits = (weights(base.backbone), weights(base.head)), base.outputs(data.images)["logits"]
        adapt(base, data, method=method)
        assert same(before[0], weights(base.backbone))
        assert same(before[1], weights(base.head))
        assert base.outputs(data.images)["logits"].tobytes() == logits.tobytes()

    def test_the_adapted_teacher_is_frozen(self, method: str) -> None:
        teacher = adapt(base_teacher(), client_data(), method=method)
        for part in (teacher.backbone, teacher.head):
            assert not any(module.training for module in part.modules())
            assert not any(parameter.requires_grad for parameter in part.parameters())

    def test_bits_depend_on_the_client_and_repeat(self, method: str) -> None:
        base, data = base_teacher(), client_data()
        first, again, other = (
            adapt(base, data, method=method, client=client).outputs(data.images)["logits"] for client in (2, 2, 3)
        )
        assert first.tobytes() == again.tobytes()
        assert first.tobytes() != other.tobytes()

    def test_images_of_a_single_class_suffice(self, method: str) -> None:
        base, data = base_teacher(), client_data(only=1)
        teacher = adapt(base, data, method=method)
        assert teacher.outputs(data.images)["logits"].shape == (24, CLASSES)
        assert accuracy(teacher, data) == 1

    def test_a_single_image_suffices(self, method: str) -> None:
        data = client_data().take(np.array([0]))
        assert accuracy(adapt(base_teacher(), data, method=method), data) == 1

    def test_a_nonlinear_head_is_replaced(self, method: str) -> None:
        """By a linear head for the classes of the data."""
        base = replace(base_teacher(), head=frozen(nn.Sequential(nn.Linear(WIDTH, 10), nn.LogSoftmax(dim=1))))
        teacher = adapt(base, client_data(), method=method)
        assert isinstance(teacher.head, nn.Linear)
        assert teacher.outputs(client_data().images)["logits"].shape == (24, CLASSES)


def test_a_linear_probe_does_not_change_features() -> None:
    base, data = base_teacher(), client_data()
    teacher = adapt(base, data)
    assert teacher.outputs(data.images)["features"].tobytes() == base.outputs(data.images)["features"].tobytes()


def test_fine_tuning_changes_the_backbone_and_the_head() -> None:
    base, data = base_teacher(), client_data()
    teacher = adapt(base, data, method="fine_tune")
    for name, weight in base.backbone.named_parameters():
        assert not torch.equal(teacher.backbone.get_parameter(name), weight), name
    assert not same(weights(teacher.head), weights(base.head))


def test_fine_tuning_clip_changes_only_the_image_encoder(tmp_path: Path) -> None:
    write_clip(tmp_path / "tiny")
    clip = ZeroShot(model=f"local-dir:{tmp_path}/tiny", pretrained=None, batch_size=8)
    base, data = zero_shot.load(clip, client_data().classes, CPU), client_data()
    teacher = adapt(base, data, method="fine_tune", epochs=2)
    moved = {
        name.removeprefix("model.").split(".")[0]
        for name, weight in base.backbone.named_parameters()
        if not torch.equal(teacher.backbone.get_parameter(name), weight)
    }
    assert moved == {"visual"}
    assert accuracy(adapt(base, client_data(only=1), method="fine_tune"), client_data(only=1)) == 1


def test_loading_adapts_to_the_clients_examples_alone() -> None:
    """The base is the stand-in that is fitted on the public split."""
    data = client_data()
    federated = FederatedDataset(
        data, data, (np.arange(8), np.arange(8, 16)), np.arange(16, 24), np.zeros(3, np.float32), np.ones(3, np.float32)
    )
    stand_in = Supervised(epochs=1)
    member = Adapted(backbone=stand_in, epochs=2)
    base = loading.load(stand_in, federated, SEED, CPU)
    for client in (0, 1):
        examples = data.take(federated.shards[client])
        by_hand = adapted.adapt(member, base, examples, federated.shards[client], SEED, client).outputs(data.images)
        loaded = loading.load(member, federated, SEED, CPU, client).outputs(data.images)
        assert loaded["logits"].tobytes() == by_hand["logits"].tobytes()
    head = adapted.probe(
        member, base.outputs(data.images[8:16])["features"], data.labels[8:16], base.head, CLASSES, SEED, 1
    )
    np.testing.assert_allclose(
        loaded["features"] @ as_matrix(head)[:, :-1].T + as_matrix(head)[:, -1], loaded["logits"], rtol=1e-4, atol=1e-4
    )
