"""A teacher's answers: the same for an image in any company, finite, and of a known cost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.clip import write_clip
from safetensors.torch import save_model
from torch import Tensor, nn

from fedray.errors import SpecError
from fedray.models.flops import count_flops
from fedray.teachers import classifier, zero_shot
from fedray.teachers.sections import Classifier, ZeroShot
from fedray.teachers.teacher import Teacher, frozen

CPU = torch.device("cpu")
CLASSES = ("cat", "dog", "emu")
IMAGES = np.random.default_rng(0).integers(0, 256, (11, 3, 40, 40), dtype=np.uint8)


def scaled(images: Tensor) -> Tensor:
    return images.float() / 255 - 0.5


def teacher_of(backbone: nn.Module, head: nn.Module, batch_size: int = 4, precision: str = "float32") -> Teacher:
    return Teacher("ours", scaled, frozen(backbone), frozen(head), CPU, batch_size, precision)


def a_small_one(width: int = 8, batch_size: int = 4) -> Teacher:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return teacher_of(backbone, nn.Linear(width, 3), batch_size)


def a_clip(folder: Path) -> Teacher:
    write_clip(folder / "tiny")
    return zero_shot.load(ZeroShot(model=f"local-dir:{folder}/tiny", pretrained=None), CLASSES, CPU)


def a_resnet(folder: Path) -> Teacher:  # noqa: ARG001
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=0)
    return teacher_of(model, nn.Linear(model.num_features, 3))


def a_vision_transformer(folder: Path) -> Teacher:
    torch.manual_seed(0)
    save_model(timm.create_model("test_vit", num_classes=3), str(folder / "vit.safetensors"))
    return classifier.load(Classifier(model="test_vit", pretrained=f"file:{folder}/vit.safetensors"), CLASSES, CPU)


@pytest.fixture(params=[a_clip, a_resnet, a_vision_transformer])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Teacher:
    make: Callable[[Path], Teacher] = request.param
    return replace(make(tmp_path), batch_size=4)


def bits(teacher: Teacher, images: np.ndarray) -> list[bytes]:
    """Of each image's features and logits."""
    answers = teacher.outputs(images)
    return [f.tobytes() + z.tobytes() for f, z in zip(answers["features"], answers["logits"], strict=True)]


class TestAnyCompany:
    """An image's answer is the same to the last bit."""

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_alone_in_another_order_and_at_another_place(self, teacher: Teacher, precision: str) -> None:
        teacher = replace(teacher, precision=precision)
        together = bits(teacher, IMAGES)
        assert len(set(together)) == len(IMAGES)
        order = np.random.default_rng(1).permutation(len(IMAGES))
        assert bits(teacher, IMAGES[order]) == [together[i] for i in order]
        assert [bits(teacher, IMAGES[i : i + 1])[0] for i in (0, 5, 10)] == [together[i] for i in (0, 5, 10)]
        assert bits(teacher, IMAGES[3:9]) == together[3:9]

    @pytest.mark.parametrize("width", [8, 32, 64, 128])
    @pytest.mark.parametrize("batch_size", range(1, 10))
    def test_with_few_classes_in_small_batches(self, batch_size: int, width: int) -> None:
        """Where a row's place in a matrix product may decide its last bit."""
        teacher = a_small_one(width, batch_size)
        first, *others = bits(teacher, np.repeat(IMAGES[:1], 2 * batch_size, axis=0))
        assert others == [first] * (2 * batch_size - 1)
        assert bits(teacher, IMAGES[::-1]) == bits(teacher, IMAGES)[::-1]


def test_frozen_is_without_training_mode_and_gradients() -> None:
    model = frozen(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


class TestAnswers:
    def test_by_hand(self) -> None:
        """Features are each channel's mean, logits their sum and their difference."""
        head = nn.Linear(3, 2)
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]]))
            head.bias.copy_(torch.tensor([0.0, 10.0]))
        answers = teacher_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), head).outputs(IMAGES)
        means = (IMAGES / 255 - 0.5).mean(axis=(2, 3))
        np.testing.assert_allclose(answers["features"], means, atol=1e-6)
        by_hand = np.stack([means.sum(axis=1), means[:, 0] - means[:, 1] + 10], axis=1)
        np.testing.assert_allclose(answers["logits"], by_hand, atol=1e-5)
        assert {answer.dtype for answer in answers.values()} == {np.dtype(np.float32)}

    def test_features_times_head_are_logits(self, teacher: Teacher) -> None:
        answers = teacher.outputs(IMAGES[:3])
        assert isinstance(teacher.head, nn.Linear)
        assert answers["features"].shape == (3, teacher.width)
        by_hand = answers["features"] @ teacher.head.weight.numpy().T + teacher.head.bias.numpy()
        np.testing.assert_allclose(answers["logits"], by_hand, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("batch_size", [1, 2, 11, 64])
    def test_of_more_and_of_fewer_images_than_a_batch(self, batch_size: int) -> None:
        answers, others = a_small_one().outputs(IMAGES), a_small_one(batch_size=batch_size).outputs(IMAGES)
        for name, answer in answers.items():
            np.testing.assert_allclose(others[name], answer, rtol=1e-5, atol=1e-6)

    def test_bf16_is_close_and_answers_in_float32(self, teacher: Teacher) -> None:
        exact, rough = teacher.outputs(IMAGES), replace(teacher, precision="bfloat16").outputs(IMAGES)
        for name, answer in exact.items():
            assert rough[name].dtype == np.float32
            assert not np.array_equal(rough[name], answer)
            assert np.abs(rough[name] - answer).max() < 0.03 * np.abs(answer).max()

    def test_no_gradients_are_kept(self) -> None:
        teacher = a_small_one()
        teacher.backbone.requires_grad_(True)
        assert not teacher.forward(scaled(torch.from_numpy(IMAGES)))["logits"].requires_grad

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_that_are_not_finite(self, bad: float) -> None:
        teacher = a_small_one()
        assert isinstance(teacher.head, nn.Linear)
        with torch.no_grad():
            teacher.head.bias[1] = bad
        with pytest.raises(SpecError, match=r"^teacher: ours has outputs that are not finite\.$"):
            teacher.outputs(IMAGES)


class TestFlops:
    """Two for a multiplication and its addition; biases, norms and activations are not counted."""

    def test_of_a_convolution_and_a_head(self) -> None:
        """40 pixels become 19, each of 8 x 3 x 3 x 3 products; then 3 x 8."""
        assert a_small_one().flops(IMAGES[0]) == 2 * (19 * 19 * 8 * 27 + 3 * 8)

    def test_does_not_depend_on_the_batch_size(self) -> None:
        assert a_small_one(batch_size=64).flops(IMAGES[0]) == a_small_one().flops(IMAGES[0])

    def test_of_a_linear_layer(self) -> None:
        layer = nn.Linear(5, 7)
        assert count_flops(lambda: layer(torch.zeros(3, 5))) == 2 * 3 * 5 * 7

    def test_of_nothing(self) -> None:
        assert count_flops(lambda: None) == 0

    def test_of_attention(self) -> None:
        """T tokens of width d: 4 projections of T d d, and T T d for the scores and again for the values."""
        attention = frozen(nn.MultiheadAttention(8, 2, batch_first=True))
        tokens = torch.zeros(1, 5, 8)
        found = count_flops(lambda: attention(tokens, tokens, tokens, need_weights=False))
        assert found == 2 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8)

    def test_of_a_clip(self, tmp_path: Path) -> None:
        """4 patches and a class token; the text tower takes no part."""
        patches, tokens, width = 4, 5, 32
        embedding = patches * width * 3 * 16 * 16
        attention = 4 * tokens * width * width + 2 * tokens * tokens * width
        mlp = 2 * tokens * width * 4 * width
        by_hand = 2 * (embedding + attention + mlp + width * 16 + 16 * len(CLASSES))
        assert a_clip(tmp_path).flops(IMAGES[0]) == by_hand

    def test_torchs_fast_attention_is_put_back(self) -> None:
        before = torch.backends.mha.get_fastpath_enabled()
        with pytest.raises(ZeroDivisionError):
            count_flops(lambda: 1 / 0)
        assert torch.backends.mha.get_fastpath_enabled() == before
