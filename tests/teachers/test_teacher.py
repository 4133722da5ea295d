"""A teacher's outputs: equal bits in any batch, finite, and with a known cost."""

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


def small_teacher(width: int = 8, batch_size: int = 4) -> Teacher:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return teacher_of(backbone, nn.Linear(width, 3), batch_size)


def clip_teacher(folder: Path) -> Teacher:
    write_clip(folder / "tiny")
    return zero_shot.load(ZeroShot(model=f"local-dir:{folder}/tiny", pretrained=None), CLASSES, CPU)


def resnet_teacher(folder: Path) -> Teacher:  # noqa: ARG001
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=0)
    return teacher_of(model, nn.Linear(model.num_features, 3))


def vit_teacher(folder: Path) -> Teacher:
    torch.manual_seed(0)
    save_model(timm.create_model("test_vit", num_classes=3), str(folder / "vit.safetensors"))
    return classifier.load(Classifier(model="test_vit", pretrained=f"file:{folder}/vit.safetensors"), CLASSES, CPU)


@pytest.fixture(params=[clip_teacher, resnet_teacher, vit_teacher])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Teacher:
    make: Callable[[Path], Teacher] = request.param
    return replace(make(tmp_path), batch_size=4)


def bits(teacher: Teacher, images: np.ndarray) -> list[bytes]:
    """Return the bytes of each image's features and logits."""
    outputs = teacher.outputs(images)
    return [f.tobytes() + z.tobytes() for f, z in zip(outputs["features"], outputs["logits"], strict=True)]


class TestAnyBatch:
    """An image has the same bits in any batch."""

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_order_and_batch_do_not_change_bits(self, teacher: Teacher, precision: str) -> None:
        teacher = replace(teacher, precision=precision)
        together = bits(teacher, IMAGES)
        assert len(set(together)) == len(IMAGES)
        order = np.random.default_rng(1).permutation(len(IMAGES))
        assert bits(teacher, IMAGES[order]) == [together[i] for i in order]
        assert [bits(teacher, IMAGES[i : i + 1])[0] for i in (0, 5, 10)] == [together[i] for i in (0, 5, 10)]
        assert bits(teacher, IMAGES[3:9]) == together[3:9]

    @pytest.mark.parametrize("width", [8, 32, 64, 128])
    @pytest.mark.parametrize("batch_size", range(1, 10))
    def test_small_batches_do_not_change_bits(self, batch_size: int, width: int) -> None:
        """In a small matrix product the position of a row may change its last bit."""
        teacher = small_teacher(width, batch_size)
        first, *others = bits(teacher, np.repeat(IMAGES[:1], 2 * batch_size, axis=0))
        assert others == [first] * (2 * batch_size - 1)
        assert bits(teacher, IMAGES[::-1]) == bits(teacher, IMAGES)[::-1]


def test_frozen_disables_training_mode_and_gradients() -> None:
    model = frozen(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


class TestOutputs:
    def test_outputs_by_hand(self) -> None:
        """Features are channel means, logits their sum and a difference."""
        head = nn.Linear(3, 2)
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]]))
            head.bias.copy_(torch.tensor([0.0, 10.0]))
        outputs = teacher_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), head).outputs(IMAGES)
        means = (IMAGES / 255 - 0.5).mean(axis=(2, 3))
        np.testing.assert_allclose(outputs["features"], means, atol=1e-6)
        by_hand = np.stack([means.sum(axis=1), means[:, 0] - means[:, 1] + 10], axis=1)
        np.testing.assert_allclose(outputs["logits"], by_hand, atol=1e-5)
        assert {array.dtype for array in outputs.values()} == {np.dtype(np.float32)}

    def test_logits_are_the_head_of_features(self, teacher: Teacher) -> None:
        outputs = teacher.outputs(IMAGES[:3])
        assert isinstance(teacher.head, nn.Linear)
        assert outputs["features"].shape == (3, teacher.width)
        by_hand = outputs["features"] @ teacher.head.weight.numpy().T + teacher.head.bias.numpy()
        np.testing.assert_allclose(outputs["logits"], by_hand, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("batch_size", [1, 2, 11, 64])
    def test_batch_size_does_not_change_outputs(self, batch_size: int) -> None:
        outputs, others = small_teacher().outputs(IMAGES), small_teacher(batch_size=batch_size).outputs(IMAGES)
        for name, array in outputs.items():
            np.testing.assert_allclose(others[name], array, rtol=1e-5, atol=1e-6)

    def test_bfloat16_is_close_and_returned_as_float32(self, teacher: Teacher) -> None:
        exact, rough = teacher.outputs(IMAGES), replace(teacher, precision="bfloat16").outputs(IMAGES)
        for name, array in exact.items():
            assert rough[name].dtype == np.float32
            assert not np.array_equal(rough[name], array)
            assert np.abs(rough[name] - array).max() < 0.03 * np.abs(array).max()

    def test_forward_records_no_gradients(self) -> None:
        teacher = small_teacher()
        teacher.backbone.requires_grad_(True)
        assert not teacher.forward(scaled(torch.from_numpy(IMAGES)))["logits"].requires_grad

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_outputs_that_are_not_finite_are_refused(self, bad: float) -> None:
        teacher = small_teacher()
        assert isinstance(teacher.head, nn.Linear)
        with torch.no_grad():
            teacher.head.bias[1] = bad
        with pytest.raises(SpecError, match=r"^teacher: ours has outputs that are not finite\.$"):
            teacher.outputs(IMAGES)


class TestFlops:
    """A multiplication and its addition count two; biases, norms and activations are not counted."""

    def test_of_a_convolution_and_a_head(self) -> None:
        """40 pixels become 19, each with 8 x 3 x 3 x 3 products; then 3 x 8."""
        assert small_teacher().flops(IMAGES[0]) == 2 * (19 * 19 * 8 * 27 + 3 * 8)

    def test_does_not_depend_on_the_batch_size(self) -> None:
        assert small_teacher(batch_size=64).flops(IMAGES[0]) == small_teacher().flops(IMAGES[0])

    def test_of_a_linear_layer(self) -> None:
        layer = nn.Linear(5, 7)
        assert count_flops(lambda: layer(torch.zeros(3, 5))) == 2 * 3 * 5 * 7

    def test_of_no_operation(self) -> None:
        assert count_flops(lambda: None) == 0

    def test_of_attention(self) -> None:
        """T tokens of width d: 4 projections of T d d, and T T d for the scores and for the values."""
        attention = frozen(nn.MultiheadAttention(8, 2, batch_first=True))
        tokens = torch.zeros(1, 5, 8)
        flops = count_flops(lambda: attention(tokens, tokens, tokens, need_weights=False))
        assert flops == 2 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8)

    def test_of_clip_teacher(self, tmp_path: Path) -> None:
        """4 patches and a class token; the text encoder is not run."""
        patches, tokens, width = 4, 5, 32
        embedding = patches * width * 3 * 16 * 16
        attention = 4 * tokens * width * width + 2 * tokens * tokens * width
        mlp = 2 * tokens * width * 4 * width
        by_hand = 2 * (embedding + attention + mlp + width * 16 + 16 * len(CLASSES))
        assert clip_teacher(tmp_path).flops(IMAGES[0]) == by_hand

    def test_the_attention_fast_path_is_restored(self) -> None:
        before = torch.backends.mha.get_fastpath_enabled()
        with pytest.raises(ZeroDivisionError):
            count_flops(lambda: 1 / 0)
        assert torch.backends.mha.get_fastpath_enabled() == before
