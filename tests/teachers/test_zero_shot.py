"""Zero-shot logits against a computation written out by hand, with a tiny random CLIP on disk."""

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


def expected(model: open_clip.CLIP, data: Dataset, names: tuple[str, ...], prompts: tuple[str, ...]) -> np.ndarray:
    """Image by image and prompt by prompt: exp(scale) * cos(image, mean of prompts) + bias."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    logits = np.zeros((len(data), len(names)))
    with torch.inference_mode():
        for row, image in enumerate(data.images):
            colour = np.repeat(image, 3, axis=0) if len(image) == 1 else image
            picture = Image.fromarray(colour.transpose(1, 2, 0)).resize((32, 32), Image.Resampling.BICUBIC)
            scaled = (np.asarray(picture) / 255 - MEAN) / STD
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
    def test_by_hand(self, clip: open_clip.CLIP, folder: Path, channels: int, prompts: tuple[str, ...]) -> None:
        data = dataset(channels)
        found = teacher(folder, prompts=prompts).outputs(data.images)["logits"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected(clip, data, CLASSES, prompts), rtol=1e-4, atol=1e-4)

    def test_other_braces_than_the_gap(self, clip: open_clip.CLIP, folder: Path) -> None:
        data, prompts = dataset(), ("a {small} {} }",)
        found = teacher(folder, prompts=prompts).outputs(data.images)["logits"]
        np.testing.assert_allclose(found, expected(clip, data, CLASSES, prompts), rtol=1e-4, atol=1e-4)

    def test_small_images_are_enlarged(self, clip: open_clip.CLIP, folder: Path) -> None:
        data = dataset(channels=1, size=8)
        found = teacher(folder).outputs(data.images)["logits"]
        np.testing.assert_allclose(found, expected(clip, data, CLASSES, PROMPTS[:1]), rtol=1e-4, atol=1e-4)

    def test_own_class_names(self, clip: open_clip.CLIP, folder: Path) -> None:
        data, names = dataset(), ("kitten", "ice bear", "large bird")
        found = teacher(folder, classes=names).outputs(data.images)["logits"]
        np.testing.assert_allclose(found, expected(clip, data, names, PROMPTS[:1]), rtol=1e-4, atol=1e-4)

    def test_overridden_class_names(self, clip: open_clip.CLIP, folder: Path) -> None:
        data, names = dataset(), ("kitten", "ice bear", "large bird")
        spec = ZeroShot(model=f"local-dir:{folder}", pretrained=None, classes=names)
        found = zero_shot.load(spec, CLASSES, CPU).outputs(data.images)["logits"]
        np.testing.assert_allclose(found, expected(clip, data, names, PROMPTS[:1]), rtol=1e-4, atol=1e-4)

    def test_more_classes_than_open_clip_embeds_at_once(self, clip: open_clip.CLIP, folder: Path) -> None:
        names = tuple(f"number {i}" for i in range(23))
        data = dataset(count=2, classes=names)
        found = teacher(folder, names, prompts=PROMPTS[:2]).outputs(data.images)["logits"]
        np.testing.assert_allclose(found, expected(clip, data, names, PROMPTS[:2]), rtol=1e-4, atol=1e-4)

    def test_bias(self, tmp_path: Path) -> None:
        model = write_clip(tmp_path / "tiny", init_logit_bias=-10.0)
        data = dataset()
        found = teacher(tmp_path / "tiny").outputs(data.images)["logits"]
        np.testing.assert_allclose(found, expected(model, data, CLASSES, PROMPTS[:1]), rtol=1e-4, atol=1e-4)

    def test_features_are_embeddings_of_length_1(self, clip: open_clip.CLIP, folder: Path) -> None:
        """And so logits are their product with the prompts, times the scale."""
        answers = teacher(folder).outputs(dataset().images)
        np.testing.assert_allclose(np.linalg.norm(answers["features"], axis=1), 1, rtol=1e-5)
        texts = clip.encode_text(open_clip.get_tokenizer("ViT-B-32")([PROMPTS[0].format(name) for name in CLASSES]))
        classes = texts.detach().numpy() / np.linalg.norm(texts.detach().numpy(), axis=1, keepdims=True)
        by_hand = np.exp(1.5) * answers["features"] @ classes.T
        np.testing.assert_allclose(answers["logits"], by_hand, rtol=1e-4, atol=1e-4)

    @pytest.mark.usefixtures("clip")
    def test_batch_size_does_not_matter(self, folder: Path) -> None:
        together = teacher(folder).outputs(dataset().images)["logits"]
        np.testing.assert_allclose(
            teacher(folder, batch_size=3).outputs(dataset().images)["logits"], together, rtol=1e-5, atol=1e-5
        )

    @pytest.mark.usefixtures("clip")
    def test_frozen(self, folder: Path) -> None:
        found = teacher(folder)
        assert (
            found.outputs(dataset().images)["logits"].tobytes() == found.outputs(dataset().images)["logits"].tobytes()
        )

    @pytest.mark.usefixtures("clip")
    def test_as_the_spec_names_it(self, folder: Path) -> None:
        spec = ZeroShot(model=f"local-dir:{folder}", pretrained=None, prompts=PROMPTS)
        experiment = Experiment(teacher=spec)
        data = federated.load(experiment)
        some = data.test.images[:5]
        found = loading.load(experiment.teacher, data, 0, CPU).outputs(some)["logits"]
        named = teacher(folder, tuple("0123456789"), prompts=PROMPTS)
        assert found.tobytes() == named.outputs(some)["logits"].tobytes()

    def test_quick_gelu_of_the_folders_own_config(self, tmp_path: Path) -> None:
        model = write_clip(tmp_path / "quick", quick_gelu=True)
        found = teacher(tmp_path / "quick").outputs(dataset().images)["logits"]
        np.testing.assert_allclose(found, expected(model, dataset(), CLASSES, PROMPTS[:1]), rtol=1e-4, atol=1e-4)


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model's name in open_clip's registry, for one test."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    (tmp_path / "Tiny-16.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "Tiny-16.json")
    return "Tiny-16"


class TestRegistered:
    """A name from open_clip's registry, with a checkpoint file."""

    @pytest.mark.parametrize("suffix", ["safetensors", "pt"])
    def test_checkpoint(self, registered: str, tmp_path: Path, suffix: str) -> None:
        model, file = write_clip(tmp_path / "tiny"), tmp_path / f"weights.{suffix}"
        save_file(model.state_dict(), file) if suffix == "safetensors" else torch.save(model.state_dict(), file)
        found = zero_shot.load(ZeroShot(model=registered, pretrained=str(file)), CLASSES, CPU)
        reference = open_clip.create_model_and_transforms(registered, pretrained=str(file))
        picture = reference[2](Image.fromarray(dataset().images[0].transpose(1, 2, 0)))[None]
        prompts = open_clip.get_tokenizer(registered)([PROMPTS[0].format(name) for name in CLASSES])
        with torch.inference_mode():
            image, text, scale = model(picture, prompts)
        np.testing.assert_allclose(
            found.outputs(dataset().images)["logits"][0], (scale * image @ text.T)[0], rtol=1e-4, atol=1e-4
        )

    def test_no_checkpoint(self, registered: str, tmp_path: Path) -> None:
        message = message_of(model=registered, pretrained=str(tmp_path / "none.pt"))
        assert f"{registered} has no tag '{tmp_path}/none.pt', and there is no such file" in message

    @pytest.mark.parametrize("suffix", ["safetensors", "pt"])
    def test_damaged_checkpoint(self, registered: str, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"a.{suffix}").write_bytes(b"these are no weights")
        message = message_of(model=registered, pretrained=str(tmp_path / f"a.{suffix}"))
        assert message.startswith(f"teacher: open_clip could not load {registered} with {tmp_path}/a.{suffix} (")

    def test_checkpoint_of_another_model(self, registered: str, tmp_path: Path) -> None:
        save_file({"odd": torch.zeros(2)}, tmp_path / "a.safetensors")
        message = message_of(model=registered, pretrained=str(tmp_path / "a.safetensors"))
        assert message.startswith(f"teacher: open_clip could not load {registered} with {tmp_path}/a.safetensors (")


class TestQuickGelu:
    """OpenAI's weights need QuickGELU; open_clip's bare architecture names leave it out."""

    def test_every_tag_gets_the_activation_it_was_trained_with(self) -> None:
        """What open_clip warns of is a mismatch of the two; forcing it per tag leaves none for CLIP models."""
        for name, tag in open_clip.list_pretrained():
            wanted = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
            own = open_clip.get_model_config(name).get("quick_gelu", False)
            if name != "roberta-ViT-B-32":  # open_clip's own two tables disagree about that one
                assert (own or wanted) == wanted, (name, tag)

    def test_openais(self) -> None:
        assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"]
        assert not open_clip.get_model_config("ViT-B-32").get("quick_gelu", False)

    @pytest.mark.parametrize("quick", [True, False])
    def test_a_tags_activation(
        self, registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
    ) -> None:
        model = write_clip(tmp_path / "tiny", quick_gelu=quick)
        tag = PREPROCESS | {"file": str(tmp_path / "tiny" / "open_clip_model.safetensors"), "quick_gelu": quick}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, registered, {"mine": tag})
        found = zero_shot.load(ZeroShot(model=registered, pretrained="mine"), CLASSES, CPU).outputs(dataset().images)[
            "logits"
        ]
        by_hand = expected(model, dataset(), CLASSES, PROMPTS[:1])
        np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-4)
        other = write_clip(tmp_path / "other", quick_gelu=not quick)  # the same weights
        assert abs(expected(other, dataset(), CLASSES, PROMPTS[:1]) - by_hand).max() > 1e-3


class TestRefused:
    def test_number_of_class_names(self) -> None:
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
        said = "teacher.pretrained: ViT-B-32 has no tag '{}', and there is no such file; "
        assert message_of(model="ViT-B-32", pretrained="openia") == said.format("openia") + "did you mean 'openai'?"
        message = message_of(model="ViT-B-32", pretrained="/")
        assert message.startswith(said.format("/") + "its tags are")
        for tag in open_clip.list_pretrained_tags_by_model("ViT-B-32"):
            assert tag in message

    def test_random_weights(self) -> None:
        message = message_of(model="ViT-B-32", pretrained=None)
        assert message == ("teacher.pretrained: is null, which means random weights; name a tag or a checkpoint.")

    def test_random_weights_of_a_folder_without_any(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "tiny")
        (tmp_path / "tiny" / "open_clip_model.safetensors").unlink()
        assert "weights" in message_of(model=f"local-dir:{tmp_path}/tiny", pretrained=None)

    def test_no_folder(self, tmp_path: Path) -> None:
        message = message_of(model=f"local-dir:{tmp_path}/none", pretrained=None)
        assert message.startswith(f"teacher: open_clip could not load local-dir:{tmp_path}/none")

    def test_folder_without_a_config(self, tmp_path: Path) -> None:
        message = message_of(model=f"local-dir:{tmp_path}", pretrained=None)
        assert message.startswith(f"teacher: open_clip could not load local-dir:{tmp_path}")

    def test_folder_with_damaged_weights(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "tiny")
        (tmp_path / "tiny" / "open_clip_model.safetensors").write_bytes(b"these are no weights")
        message = message_of(model=f"local-dir:{tmp_path}/tiny", pretrained=None)
        assert message.startswith(f"teacher: open_clip could not load local-dir:{tmp_path}/tiny")

    @pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
    def test_a_tokenizer_whose_library_is_missing(self, tmp_path: Path) -> None:
        """SigLIP's and others' tokenizers need the package transformers, which fedray does not require."""
        write_clip(tmp_path / "tiny")
        config = {"model_cfg": TINY | {"text_cfg": TINY["text_cfg"] | {"hf_tokenizer_name": "some/tokenizer"}}}
        (tmp_path / "tiny" / "open_clip_config.json").write_text(json.dumps(config))
        assert "transformers" in message_of(model=f"local-dir:{tmp_path}/tiny", pretrained=None)
