"""timm's classifiers as teachers, with tiny random weights on disk, against timm itself."""

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
        model.get_classifier().weight.mul_(20)  # timm starts classifiers so small that all images look alike
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
    """With timm's own transform for this model, picture by picture."""
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
    with torch.inference_mode():
        return np.concatenate([model(transform(picture)[None]).numpy() for picture in pictures])


def message_of(file: Path, classes: tuple[str, ...] = CLASSES, **spec: Any) -> str:
    with pytest.raises(SpecError) as caught:
        teacher(file, classes, **spec)
    return str(caught.value)


class TestLogits:
    def test_they_are_timms(self, file: Path, model: torch.nn.Module) -> None:
        found = teacher(file, tuple("abcdef")).outputs(IMAGES)["logits"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, by_timm(model, IMAGES), rtol=1e-4, atol=1e-4)
        assert found.std(axis=0).min() > 0.01

    @pytest.mark.parametrize("name", ["test_vit", "mobilenetv3_small_050"])
    def test_of_other_families(self, tmp_path: Path, name: str) -> None:
        other = write(tmp_path / "other.safetensors", name=name)
        found = teacher(tmp_path / "other.safetensors", tuple("abcdef"), name).outputs(IMAGES[:2])["logits"]
        np.testing.assert_allclose(found, by_timm(other, IMAGES[:2]), rtol=1e-4, atol=1e-4)

    def test_gray_images_count_as_colours_that_are_alike(self, file: Path, model: torch.nn.Module) -> None:
        gray = IMAGES[:, :1]
        found = teacher(file, tuple("abcdef")).outputs(gray)["logits"]
        np.testing.assert_allclose(found, by_timm(model, gray.repeat(3, axis=1)), rtol=1e-4, atol=1e-4)

    def test_features_times_head(self, file: Path, model: torch.nn.Module) -> None:
        answers = teacher(file, tuple("abcdef")).outputs(IMAGES)
        head = model.get_classifier()
        by_hand = answers["features"] @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        np.testing.assert_allclose(answers["logits"], by_hand, rtol=1e-4, atol=1e-4)

    def test_a_path_in_the_home_folder(
        self, file: Path, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(file.parent))
        found = teacher(Path("~") / file.name, tuple("abcdef")).outputs(IMAGES)["logits"]
        np.testing.assert_allclose(found, by_timm(model, IMAGES), rtol=1e-4, atol=1e-4)


class TestClassMap:
    def test_probabilities_of_a_classes_outputs_add_up(self, file: Path, model: torch.nn.Module) -> None:
        """In the order of the data's classes, not the map's."""
        answers = teacher(file, CLASSES, class_map=MAP).outputs(IMAGES)
        outputs = np.exp(by_timm(model, IMAGES).astype(np.float64))
        by_hand = np.log(np.stack([outputs[:, list(MAP[name])].sum(axis=1) for name in CLASSES], axis=1))
        np.testing.assert_allclose(answers["logits"], by_hand, rtol=1e-4, atol=1e-4)
        softmax = np.exp(answers["logits"]) / np.exp(answers["logits"]).sum(axis=1, keepdims=True)
        shares = outputs / outputs.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(softmax[:, 0], shares[:, [0, 2, 3]].sum(axis=1), rtol=1e-4)

    def test_outputs_that_mean_no_class_are_left_out(self, file: Path, model: torch.nn.Module) -> None:
        found = teacher(file, CLASSES, class_map={"cat": (4,), "dog": (0,), "emu": (1,)}).outputs(IMAGES)["logits"]
        np.testing.assert_allclose(found, by_timm(model, IMAGES)[:, [4, 0, 1]], rtol=1e-4, atol=1e-4)

    def test_large_outputs_stay_finite(self) -> None:
        mapped = classifier.ClassMap([(0, 1), (2,)])(torch.tensor([[1000.0, 999.0, -1000.0]]))
        np.testing.assert_allclose(mapped.numpy(), [[1000 + np.log(1 + np.exp(-1)), -1000]], rtol=1e-6)

    @pytest.mark.usefixtures("model")
    def test_features_are_those_before_the_models_own_head(self, file: Path) -> None:
        mapped, plain = teacher(file, CLASSES, class_map=MAP), teacher(file, tuple("abcdef"))
        assert mapped.outputs(IMAGES)["features"].tobytes() == plain.outputs(IMAGES)["features"].tobytes()
        assert mapped.width == plain.width == 256


@pytest.mark.usefixtures("model")
class TestRefused:
    def test_unknown_model(self, file: Path) -> None:
        message = message_of(file, name="resnet5O")
        assert message == "teacher.model: timm has no model 'resnet5O'; did you mean 'resnet50'?"

    def test_other_number_of_outputs(self, file: Path) -> None:
        """They are loaded, for features or a linear probe; `Roster` refuses them where logits are asked."""
        assert teacher(file, CLASSES).outputs(IMAGES)["logits"].shape[1] == 6

    def test_a_class_that_the_data_lacks(self, file: Path) -> None:
        message = message_of(file, class_map=MAP | {"cart": (1,)})
        assert message == "teacher.class_map: the data has no class 'cart'; did you mean 'cat'?"

    @pytest.mark.parametrize("outputs", [None, (), (6,), (0, -1)], ids=["missing", "none", "too high", "negative"])
    def test_a_class_without_outputs_of_the_model(self, file: Path, outputs: tuple[int, ...] | None) -> None:
        others = {name: group for name, group in MAP.items() if name != "dog"}
        message = message_of(file, class_map=others if outputs is None else others | {"dog": outputs})
        said = "teacher.class_map: 'dog' needs one or more of the model's outputs 0 to 5, it has"
        assert message == f"{said} {list(outputs or ())}."

    def test_an_empty_map(self, file: Path) -> None:
        assert message_of(file, class_map={}).startswith("teacher.class_map: 'cat' needs one or more")

    def test_no_file(self, tmp_path: Path) -> None:
        message = message_of(tmp_path / "none.safetensors")
        assert message.startswith(
            f"teacher.pretrained: 'file:{tmp_path}/none.safetensors' could not be loaded (no such"
        )

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(b"these are no weights")
        message = message_of(tmp_path / "a.safetensors")
        assert message.startswith(f"teacher.pretrained: 'file:{tmp_path}/a.safetensors' could not be loaded (")

    def test_weights_of_another_model(self, tmp_path: Path) -> None:
        """The reason says what does not fit."""
        save_file({"odd": torch.zeros(2)}, tmp_path / "odd.safetensors")
        assert "Missing key(s) in state_dict" in message_of(tmp_path / "odd.safetensors")
        write(tmp_path / "other.safetensors", name="test_vit")
        assert "could not be loaded" in message_of(tmp_path / "other.safetensors")
        save_file({"classifier.weight": torch.zeros(3, 256)}, tmp_path / "part.safetensors")
        assert "Missing key(s) in state_dict" in message_of(tmp_path / "part.safetensors")

    def test_an_unknown_tag(self, file: Path) -> None:
        message = message_of(file, pretrained="of_my_own")
        assert message.startswith("teacher.pretrained: 'of_my_own' could not be loaded (")
        assert "of_my_own" in message

    @pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "volo_d1_224"])
    def test_a_model_with_two_heads(self, tmp_path: Path, name: str) -> None:
        """DeiT's has learned from a teacher of its own; VOLO's looks at the patches."""
        save_model(timm.create_model(name), str(tmp_path / "two.safetensors"))
        message = message_of(tmp_path / "two.safetensors", name=name)
        assert message == f"teacher.model: {name} has no linear head; choose another model."
