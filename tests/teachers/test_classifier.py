"""timm models as teachers equal timm itself, with tiny random weights on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file, save_model

from fedray.errors import SpecError
from fedray.teachers import classifier
from fedray.teachers.sections import Classifier
from fedray.teachers.teacher import Teacher

CPU = torch.device("cpu")
NAME, OUTPUTS = "test_efficientnet", 6
CLASSES = ("cat", "dog", "emu")
MAP = {"emu": (5,), "cat": (0, 2, 3), "dog": (1, 4)}
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 40, 40), dtype=np.uint8)


def write(file: Path, outputs: int = OUTPUTS, name: str = NAME) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=outputs)
    with torch.no_grad():
        model.get_classifier().weight.mul_(20)  # timm's initial heads have almost the same logits for all images
        model.get_classifier().bias.normal_()
    save_model(model, str(file))
    return model.eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("timm") / "tiny.safetensors"


@pytest.fixture(scope="module")
def model(file: Path) -> torch.nn.Module:
    return write(file)


def teacher(file: Path, classes: tuple[str, ...], name: str = NAME, **spec: Any) -> Teacher:
    spec = {"model": name, "pretrained": f"file:{file}", "batch_size": 4} | spec
    return classifier.load(Classifier.model_validate(spec), classes, CPU)


def by_timm(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Compute logits image by image, with timm's transform for this model."""
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    prepared = [transform(Image.fromarray(image.transpose(1, 2, 0)))[None] for image in images]
    with torch.inference_mode():
        return np.concatenate([model(image).numpy() for image in prepared])


def message_of(file: Path, classes: tuple[str, ...] = CLASSES, **spec: Any) -> str:
    with pytest.raises(SpecError) as caught:
        teacher(file, classes, **spec)
    return str(caught.value)


class TestLogits:
    def test_logits_equal_timms(self, file: Path, model: torch.nn.Module) -> None:
        logits = teacher(file, tuple("abcdef")).outputs(IMAGES)["logits"]
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, by_timm(model, IMAGES), rtol=1e-4, atol=1e-4)
        assert logits.std(axis=0).min() > 0.01

    @pytest.mark.parametrize("name", ["test_vit", "mobilenetv3_small_050"])
    def test_other_model_families(self, tmp_path: Path, name: str) -> None:
        other = write(tmp_path / "other.safetensors", name=name)
        logits = teacher(tmp_path / "other.safetensors", tuple("abcdef"), name).outputs(IMAGES[:2])["logits"]
        np.testing.assert_allclose(logits, by_timm(other, IMAGES[:2]), rtol=1e-4, atol=1e-4)

    def test_gray_images_are_repeated_over_channels(self, file: Path, model: torch.nn.Module) -> None:
        gray = IMAGES[:, :1]
        logits = teacher(file, tuple("abcdef")).outputs(gray)["logits"]
        np.testing.assert_allclose(logits, by_timm(model, gray.repeat(3, axis=1)), rtol=1e-4, atol=1e-4)

    def test_logits_are_the_head_of_features(self, file: Path, model: torch.nn.Module) -> None:
        outputs = teacher(file, tuple("abcdef")).outputs(IMAGES)
        head = model.get_classifier()
        by_hand = outputs["features"] @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        np.testing.assert_allclose(outputs["logits"], by_hand, rtol=1e-4, atol=1e-4)

    def test_tilde_is_the_home_folder(
        self, file: Path, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(file.parent))
        logits = teacher(Path("~") / file.name, tuple("abcdef")).outputs(IMAGES)["logits"]
        np.testing.assert_allclose(logits, by_timm(model, IMAGES), rtol=1e-4, atol=1e-4)


class TestClassMap:
    def test_probabilities_of_mapped_outputs_are_summed(self, file: Path, model: torch.nn.Module) -> None:
        """Columns are in the order of the data's classes, not the map's."""
        outputs = teacher(file, CLASSES, class_map=MAP).outputs(IMAGES)
        exponentials = np.exp(by_timm(model, IMAGES).astype(np.float64))
        by_hand = np.log(np.stack([exponentials[:, list(MAP[name])].sum(axis=1) for name in CLASSES], axis=1))
        np.testing.assert_allclose(outputs["logits"], by_hand, rtol=1e-4, atol=1e-4)
        softmax = np.exp(outputs["logits"]) / np.exp(outputs["logits"]).sum(axis=1, keepdims=True)
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(softmax[:, 0], probabilities[:, [0, 2, 3]].sum(axis=1), rtol=1e-4)

    def test_unmapped_outputs_are_ignored(self, file: Path, model: torch.nn.Module) -> None:
        logits = teacher(file, CLASSES, class_map={"cat": (4,), "dog": (0,), "emu": (1,)}).outputs(IMAGES)["logits"]
        np.testing.assert_allclose(logits, by_timm(model, IMAGES)[:, [4, 0, 1]], rtol=1e-4, atol=1e-4)

    def test_large_outputs_stay_finite(self) -> None:
        mapped = classifier.ClassMap([(0, 1), (2,)])(torch.tensor([[1000.0, 999.0, -1000.0]]))
        np.testing.assert_allclose(mapped.numpy(), [[1000 + np.log(1 + np.exp(-1)), -1000]], rtol=1e-6)

    @pytest.mark.usefixtures("model")
    def test_a_class_map_does_not_change_features(self, file: Path) -> None:
        mapped, plain = teacher(file, CLASSES, class_map=MAP), teacher(file, tuple("abcdef"))
        assert mapped.outputs(IMAGES)["features"].tobytes() == plain.outputs(IMAGES)["features"].tobytes()
        assert mapped.width == plain.width == 256


@pytest.mark.usefixtures("model")
class TestRefused:
    def test_unknown_model(self, file: Path) -> None:
        message = message_of(file, name="resnet5O")
        assert message == "teacher.model: timm has no model 'resnet5O'; did you mean 'resnet50'?"

    def test_another_number_of_outputs_is_loaded(self, file: Path) -> None:
        """Features and linear probes need no matching outputs; `TeacherPool` refuses a query of logits."""
        assert teacher(file, CLASSES).outputs(IMAGES)["logits"].shape[1] == 6

    def test_an_unknown_class(self, file: Path) -> None:
        message = message_of(file, class_map=MAP | {"cart": (1,)})
        assert message == "teacher.class_map: the data has no class 'cart'; did you mean 'cat'?"

    @pytest.mark.parametrize("outputs", [None, (), (6,), (0, -1)], ids=["missing", "none", "too high", "negative"])
    def test_a_class_without_valid_outputs(self, file: Path, outputs: tuple[int, ...] | None) -> None:
        others = {name: group for name, group in MAP.items() if name != "dog"}
        message = message_of(file, class_map=others if outputs is None else others | {"dog": outputs})
        expected = "teacher.class_map: 'dog' needs one or more of the model's outputs 0 to 5, it has"
        assert message == f"{expected} {list(outputs or ())}."

    def test_an_empty_map(self, file: Path) -> None:
        assert message_of(file, class_map={}).startswith("teacher.class_map: 'cat' needs one or more")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        message = message_of(tmp_path / "none.safetensors")
        assert message.startswith(
            f"teacher.pretrained: 'file:{tmp_path}/none.safetensors' could not be loaded (no such"
        )

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(b"not weights")
        message = message_of(tmp_path / "a.safetensors")
        assert message.startswith(f"teacher.pretrained: 'file:{tmp_path}/a.safetensors' could not be loaded (")

    def test_weights_of_another_model(self, tmp_path: Path) -> None:
        """The message names the missing or mismatching weights."""
        save_file({"odd": torch.zeros(2)}, tmp_path / "odd.safetensors")
        assert "Missing key(s) in state_dict" in message_of(tmp_path / "odd.safetensors")
        write(tmp_path / "other.safetensors", name="test_vit")
        assert "could not be loaded" in message_of(tmp_path / "other.safetensors")
        save_file({"classifier.weight": torch.zeros(3, 256)}, tmp_path / "part.safetensors")
        assert "Missing key(s) in state_dict" in message_of(tmp_path / "part.safetensors")

    def test_an_unknown_tag(self, file: Path) -> None:
        message = message_of(file, pretrained="my_tag")
        assert message.startswith("teacher.pretrained: 'my_tag' could not be loaded (")
        assert "my_tag" in message

    @pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "volo_d1_224"])
    def test_a_model_with_two_heads(self, tmp_path: Path, name: str) -> None:
        """DeiT's second head is for distillation, VOLO's for patches."""
        save_model(timm.create_model(name), str(tmp_path / "two.safetensors"))
        message = message_of(tmp_path / "two.safetensors", name=name)
        assert message == f"teacher.model: {name} has no linear head; choose another model."
