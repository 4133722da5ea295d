"""Zero-shot logits equal a computation by hand, with a tiny random CLIP on disk."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from helpers import federated
from helpers.clip import MEAN, PREPROCESS, STD, TINY, write_clip
from PIL import Image
from safetensors.torch import save_file

from fedray.config.experiment import Experiment
from fedray.data.dataset import Dataset
from fedray.errors import SpecError
from fedray.teachers import loading, zero_shot
from fedray.teachers.sections import ZeroShot
from fedray.teachers.teacher import Teacher

CPU = torch.device("cpu")
CLASSES = ("cat", "polar bear", "emu")


def dataset(channels: int = 3, size: int = 40, count: int = 7, classes: tuple[str, ...] = CLASSES) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return Dataset("random", images, np.arange(count) % len(classes), np.arange(count), None, classes)


def logits_by_hand(
    model: open_clip.CLIP, data: Dataset, names: tuple[str, ...], prompts: tuple[str, ...]
) -> np.ndarray:
    """Compute exp(scale) * cos(image, mean of prompts) + bias, image by image and prompt by prompt."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    logits = np.zeros((len(data), len(names)))
    with torch.inference_mode():
        for row, image in enumerate(data.images):
            rgb = np.repeat(image, 3, axis=0) if len(image) == 1 else image
            resized = Image.fromarray(rgb.transpose(1, 2, 0)).resize((32, 32), Image.Resampling.BICUBIC)
            scaled = (np.asarray(resized) / 255 - MEAN) / STD
            features = model.encode_image(torch.tensor(scaled.transpose(2, 0, 1)[None], dtype=torch.float32))[0].numpy()
            for column, name in enumerate(names):
                total = np.zeros(16)
                for prompt in prompts:
                    text = model.encode_text(tokenizer([prompt.replace("{}", name)]))[0].numpy()
                    total += text / np.linalg.norm(text)
                cosine = features @ total / np.linalg.norm(features) / np.linalg.norm(total)
                logits[row, column] = np.exp(1.5) * cosine
    return logits + (0 if model.logit_bias is None else -3)


def teacher(folder: Path, classes: tuple[str, ...] = CLASSES, **spec: Any) -> Teacher:
    return zero_shot.load(ZeroShot(model=f"local-dir:{folder}", pretrained=None, **spec), classes, CPU)


def message_of(classes: tuple[str, ...] = CLASSES, **spec: Any) -> str:
    with pytest.raises(SpecError) as caught:
        zero_shot.load(ZeroShot(**spec), classes, CPU)
    return str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clip") / "tiny"


@pytest.fixture(scope="module")
def clip(folder: Path) -> open_clip.CLIP:
    return write_clip(folder)


PROMPTS = ("a photo of a {}.", "{} in the wild", "a drawing of one {}")


class TestLogits:
    @pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one prompt", "three prompts"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_logits_equal_those_by_hand(
        self, clip: open_clip.CLIP, folder: Path, channels: int, prompts: tuple[str, ...]
    ) -> None:
        data = dataset(channels)
        logits = teacher(folder, prompts=prompts).outputs(data.images)["logits"]
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, logits_by_hand(clip, data, CLASSES, prompts), rtol=1e-4, atol=1e-4)

    def test_other_braces_in_a_prompt(self, clip: open_clip.CLIP, folder: Path) -> None:
        data, prompts = dataset(), ("a {small} {} }",)
        logits = teacher(folder, prompts=prompts).outputs(data.images)["logits"]
        np.testing.assert_allclose(logits, logits_by_hand(clip, data, CLASSES, prompts), rtol=1e-4, atol=1e-4)

    def test_small_images_are_enlarged(self, clip: open_clip.CLIP, folder: Path) -> None:
        data = dataset(channels=1, size=8)
        logits = teacher(folder).outputs(data.images)["logits"]
        np.testing.assert_allclose(logits, logits_by_hand(clip, data, CLASSES, PROMPTS[:1]), rtol=1e-4, atol=1e-4)

    def test_class_names_of_the_data(self, clip: open_clip.CLIP, folder: Path) -> None:
        data, names = dataset(), ("kitten", "ice bear", "large bird")
        logits = teacher(folder, classes=names).outputs(data.images)["logits"]
        np.testing.assert_allclose(logits, logits_by_hand(clip, data, names, PROMPTS[:1]), rtol=1e-4, atol=1e-4)

    def test_class_names_of_the_spec(self, clip: open_clip.CLIP, folder: Path) -> None:
        data, names = dataset(), ("kitten", "ice bear", "large bird")
        spec = ZeroShot(model=f"local-dir:{folder}", pretrained=None, classes=names)
        logits = zero_shot.load(spec, CLASSES, CPU).outputs(data.images)["logits"]
        np.testing.assert_allclose(logits, logits_by_hand(clip, data, names, PROMPTS[:1]), rtol=1e-4, atol=1e-4)

    def test_more_classes_than_open_clips_batch(self, clip: open_clip.CLIP, folder: Path) -> None:
        names = tuple(f"number {i}" for i in range(23))
        data = dataset(count=2, classes=names)
        logits = teacher(folder, names, prompts=PROMPTS[:2]).outputs(data.images)["logits"]
        np.testing.assert_allclose(logits, logits_by_hand(clip, data, names, PROMPTS[:2]), rtol=1e-4, atol=1e-4)

    def test_a_bias_is_added(self, tmp_path: Path) -> None:
        model = write_clip(tmp_path / "tiny", init_logit_bias=-10.0)
        data = dataset()
        logits = teacher(tmp_path / "tiny").outputs(data.images)["logits"]
        np.testing.assert_allclose(logits, logits_by_hand(model, data, CLASSES, PROMPTS[:1]), rtol=1e-4, atol=1e-4)

    def test_features_are_embeddings_of_length_1(self, clip: open_clip.CLIP, folder: Path) -> None:
        """Logits are their product with the prompts' embeddings, times the scale."""
        outputs = teacher(folder).outputs(dataset().images)
        np.testing.assert_allclose(np.linalg.norm(outputs["features"], axis=1), 1, rtol=1e-5)
        texts = clip.encode_text(open_clip.get_tokenizer("ViT-B-32")([PROMPTS[0].format(name) for name in CLASSES]))
        classes = texts.detach().numpy() / np.linalg.norm(texts.detach().numpy(), axis=1, keepdims=True)
        by_hand = np.exp(1.5) * outputs["features"] @ classes.T
        np.testing.assert_allclose(outputs["logits"], by_hand, rtol=1e-4, atol=1e-4)

    @pytest.mark.usefixtures("clip")
    def test_batch_size_does_not_change_logits(self, folder: Path) -> None:
        together = teacher(folder).outputs(dataset().images)["logits"]
        np.testing.assert_allclose(
            teacher(folder, batch_size=3).outputs(dataset().images)["logits"], together, rtol=1e-5, atol=1e-5
        )

    @pytest.mark.usefixtures("clip")
    def test_outputs_repeat_bit_for_bit(self, folder: Path) -> None:
        loaded = teacher(folder)
        first, second = (loaded.outputs(dataset().images)["logits"] for _ in range(2))
        assert first.tobytes() == second.tobytes()

    @pytest.mark.usefixtures("clip")
    def test_zero_shot_in_an_experiment(self, folder: Path) -> None:
        spec = ZeroShot(model=f"local-dir:{folder}", pretrained=None, prompts=PROMPTS)
        experiment = Experiment(teacher=spec)
        data = federated.load(experiment)
        images = data.test.images[:5]
        logits = loading.load(experiment.teacher, data, 0, CPU).outputs(images)["logits"]
        named = teacher(folder, tuple("0123456789"), prompts=PROMPTS)
        assert logits.tobytes() == named.outputs(images)["logits"].tobytes()

    def test_quick_gelu_in_a_folders_config(self, tmp_path: Path) -> None:
        model = write_clip(tmp_path / "quick", quick_gelu=True)
        logits = teacher(tmp_path / "quick").outputs(dataset().images)["logits"]
        np.testing.assert_allclose(logits, logits_by_hand(model, dataset(), CLASSES, PROMPTS[:1]), rtol=1e-4, atol=1e-4)


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Register the tiny model in open_clip for one test, and return its name."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    (tmp_path / "Tiny-16.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "Tiny-16.json")
    return "Tiny-16"


class TestRegistered:
    """A model of open_clip's registry, with a checkpoint file."""

    @pytest.mark.parametrize("suffix", ["safetensors", "pt"])
    def test_logits_of_a_checkpoint(self, registered: str, tmp_path: Path, suffix: str) -> None:
        model, file = write_clip(tmp_path / "tiny"), tmp_path / f"weights.{suffix}"
        save_file(model.state_dict(), file) if suffix == "safetensors" else torch.save(model.state_dict(), file)
        loaded = zero_shot.load(ZeroShot(model=registered, pretrained=str(file)), CLASSES, CPU)
        reference = open_clip.create_model_and_transforms(registered, pretrained=str(file))
        prepared = reference[2](Image.fromarray(dataset().images[0].transpose(1, 2, 0)))[None]
        prompts = open_clip.get_tokenizer(registered)([PROMPTS[0].format(name) for name in CLASSES])
        with torch.inference_mode():
            image, text, scale = model(prepared, prompts)
        np.testing.assert_allclose(
            loaded.outputs(dataset().images)["logits"][0], (scale * image @ text.T)[0], rtol=1e-4, atol=1e-4
        )

    def test_a_missing_checkpoint(self, registered: str, tmp_path: Path) -> None:
        message = message_of(model=registered, pretrained=str(tmp_path / "none.pt"))
        assert f"{registered} has no tag '{tmp_path}/none.pt', and there is no such file" in message

    @pytest.mark.parametrize("suffix", ["safetensors", "pt"])
    def test_a_damaged_checkpoint(self, registered: str, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"a.{suffix}").write_bytes(b"not weights")
        message = message_of(model=registered, pretrained=str(tmp_path / f"a.{suffix}"))
        assert message.startswith(f"teacher: open_clip could not load {registered} with {tmp_path}/a.{suffix} (")

    def test_a_checkpoint_of_another_model(self, registered: str, tmp_path: Path) -> None:
        save_file({"odd": torch.zeros(2)}, tmp_path / "a.safetensors")
        message = message_of(model=registered, pretrained=str(tmp_path / "a.safetensors"))
        assert message.startswith(f"teacher: open_clip could not load {registered} with {tmp_path}/a.safetensors (")


class TestQuickGelu:
    """OpenAI's weights need QuickGELU, which open_clip's architecture names do not include."""

    def test_every_tag_gets_its_activation(self) -> None:
        """Setting the activation by tag leaves no mismatch that open_clip would warn of."""
        for name, tag in open_clip.list_pretrained():
            of_tag = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
            of_model = open_clip.get_model_config(name).get("quick_gelu", False)
            if name != "roberta-ViT-B-32":  # open_clip's two tables disagree on this model
                assert (of_model or of_tag) == of_tag, (name, tag)

    def test_openais_tag_uses_quick_gelu(self) -> None:
        assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"]
        assert not open_clip.get_model_config("ViT-B-32").get("quick_gelu", False)

    @pytest.mark.parametrize("quick", [True, False])
    def test_a_tag_sets_the_activation(
        self, registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
    ) -> None:
        model = write_clip(tmp_path / "tiny", quick_gelu=quick)
        tag = PREPROCESS | {"file": str(tmp_path / "tiny" / "open_clip_model.safetensors"), "quick_gelu": quick}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, registered, {"mine": tag})
        loaded = zero_shot.load(ZeroShot(model=registered, pretrained="mine"), CLASSES, CPU)
        logits = loaded.outputs(dataset().images)["logits"]
        by_hand = logits_by_hand(model, dataset(), CLASSES, PROMPTS[:1])
        np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-4)
        other = write_clip(tmp_path / "other", quick_gelu=not quick)  # the same weights
        assert abs(logits_by_hand(other, dataset(), CLASSES, PROMPTS[:1]) - by_hand).max() > 1e-3


class TestRefused:
    def test_another_number_of_class_names(self) -> None:
        message = message_of(classes=CLASSES, model="local-dir:nowhere", pretrained=None)
        assert "nowhere" in message
        with pytest.raises(SpecError, match=r"^teacher.classes names 2 classes, but the data has 3\.$"):
            zero_shot.load(ZeroShot(classes=("cat", "emu")), CLASSES, CPU)

    @pytest.mark.parametrize(
        ("name", "meant"), [("ViT-B-33", "ViT-B-32"), ("vit-b-32", "ViT-B-32"), ("ViT-B/32", "ViT-B-32")]
    )
    def test_unknown_model(self, name: str, meant: str) -> None:
        assert message_of(model=name) == f"teacher.model: open_clip has no model '{name}'; did you mean '{meant}'?"

    def test_unknown_tag(self) -> None:
        start = "teacher.pretrained: ViT-B-32 has no tag '{}', and there is no such file; "
        assert message_of(model="ViT-B-32", pretrained="openia") == start.format("openia") + "did you mean 'openai'?"
        message = message_of(model="ViT-B-32", pretrained="/")
        assert message.startswith(start.format("/") + "its tags are")
        for tag in open_clip.list_pretrained_tags_by_model("ViT-B-32"):
            assert tag in message

    def test_random_weights(self) -> None:
        message = message_of(model="ViT-B-32", pretrained=None)
        assert message == ("teacher.pretrained: is null, which means random weights; name a tag or a checkpoint.")

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "tiny")
        (tmp_path / "tiny" / "open_clip_model.safetensors").unlink()
        assert "weights" in message_of(model=f"local-dir:{tmp_path}/tiny", pretrained=None)

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        message = message_of(model=f"local-dir:{tmp_path}/none", pretrained=None)
        assert message.startswith(f"teacher: open_clip could not load local-dir:{tmp_path}/none")

    def test_a_folder_without_a_config(self, tmp_path: Path) -> None:
        message = message_of(model=f"local-dir:{tmp_path}", pretrained=None)
        assert message.startswith(f"teacher: open_clip could not load local-dir:{tmp_path}")

    def test_a_folder_with_damaged_weights(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "tiny")
        (tmp_path / "tiny" / "open_clip_model.safetensors").write_bytes(b"not weights")
        message = message_of(model=f"local-dir:{tmp_path}/tiny", pretrained=None)
        assert message.startswith(f"teacher: open_clip could not load local-dir:{tmp_path}/tiny")

    @pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
    def test_a_tokenizer_with_a_missing_library(self, tmp_path: Path) -> None:
        """The tokenizers of SigLIP and others need the package transformers, which fedray does not require."""
        write_clip(tmp_path / "tiny")
        config = {"model_cfg": TINY | {"text_cfg": TINY["text_cfg"] | {"hf_tokenizer_name": "some/tokenizer"}}}
        (tmp_path / "tiny" / "open_clip_config.json").write_text(json.dumps(config))
        assert "transformers" in message_of(model=f"local-dir:{tmp_path}/tiny", pretrained=None)
