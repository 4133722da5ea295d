"""Construction of every proxy, and the messages for invalid ones."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from pydantic import ValidationError
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from fedray.errors import SpecError
from fedray.models.proxies import Proxy, build
from fedray.seeding import torch_rng
from fedray.types import ImageShape

TORCHVISION_MODELS = ("resnet18", "mobilenet_v2", "efficientnet_b0")
COLOUR = ImageShape(channels=3, size=32, classes=7)
GRAY = ImageShape(channels=1, size=32, classes=7)


def message_of(data: ImageShape = COLOUR, **spec: Any) -> str:
    with pytest.raises(SpecError) as caught:
        build(Proxy(**spec), data)
    return str(caught.value)


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def final_size(model: nn.Module, images: Tensor) -> int:
    """Side in pixels of the input of the last pooling."""
    sizes: list[int] = []
    body = dict(model.named_children()).get("layer4") or model.get_submodule("features")
    body.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
    model(images)
    return sizes[0]


class TestForward:
    @pytest.mark.parametrize("norm", [None, "batch", "group"])
    @pytest.mark.parametrize("stem", [None, "imagenet", "cifar"])
    @pytest.mark.parametrize("data", [COLOUR, GRAY], ids=["colour", "gray"])
    @pytest.mark.parametrize("name", TORCHVISION_MODELS)
    def test_torchvision_models(self, name: str, data: ImageShape, stem: Any, norm: Any) -> None:
        model = build(Proxy(name=name, stem=stem, norm=norm), data)
        images = torch.rand(2, data.channels, 32, 32)
        with torch.inference_mode():
            logits = model(images)
            model.eval()
            # Five downsamplings reduce 32 pixels to 1; without the first two 4 remain.
            assert final_size(model, images) == (4 if stem == "cifar" else 1)
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
        assert any(isinstance(module, nn.GroupNorm) for module in model.modules()) == (norm == "group")
        assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == (norm != "group")

    @pytest.mark.parametrize("norm", [None, "batch", "group"])
    @pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (1, 8), (3, 4), (3, 30)])
    def test_cnn_for_any_image_size(self, channels: int, size: int, norm: Any) -> None:
        model = build(Proxy(norm=norm), ImageShape(channels, size, 7))
        assert model(torch.rand(2, channels, size, size)).shape == (2, 7)
        kind = {None: type(None), "batch": nn.BatchNorm2d, "group": nn.GroupNorm}[norm]
        assert sum(isinstance(module, kind) for module in model.modules()) == (0 if norm is None else 2)

    def test_timm_models(self) -> None:
        assert build(Proxy(name="timm:test_resnet"), GRAY)(torch.rand(2, 1, 32, 32)).shape == (2, 7)
        assert build(Proxy(name="timm:test_resnet"), COLOUR)(torch.rand(2, 3, 32, 32)).shape == (2, 7)

    def test_timm_transformers_accept_the_datas_image_size(self) -> None:
        assert build(Proxy(name="timm:test_vit_relpos"), COLOUR)(torch.rand(2, 3, 32, 32)).shape == (2, 7)

    def test_stem_changes_only_the_first_two_downsamplings(self) -> None:
        """All weights but resnet18's first convolution have the same shapes."""
        for name in TORCHVISION_MODELS:
            plain, cifar = (build(Proxy(name=name, stem=stem), COLOUR).state_dict() for stem in ("imagenet", "cifar"))
            other = [key for key in plain if plain[key].shape != cifar[key].shape]
            assert other == (["conv1.weight"] if name == "resnet18" else [])
            assert plain.keys() == cifar.keys()


class TestNumberOfParameters:
    def test_cnn_for_cifar_equals_hand_computed_value(self) -> None:
        model = build(Proxy(), ImageShape(channels=3, size=32, classes=10))
        first, second = 3 * 32 * 5 * 5 + 32, 32 * 64 * 5 * 5 + 64
        hidden, last = 64 * 8 * 8 * 512 + 512, 512 * 10 + 10
        assert sum(p.numel() for p in model.parameters()) == first + second + hidden + last == 2_156_490

    def test_cnn_for_mnist_equals_the_papers_value(self) -> None:
        """McMahan et al. report 1,663,370 parameters for MNIST."""
        model = build(Proxy(), ImageShape(channels=1, size=28, classes=10))
        assert sum(p.numel() for p in model.parameters()) == 1_663_370

    def test_resnet18_for_cifar_equals_hand_computed_value(self) -> None:
        """torchvision's 11,689,512, with a 3x3 first convolution and 10 classes."""
        model = build(Proxy(name="resnet18", stem="cifar"), ImageShape(channels=3, size=32, classes=10))
        expected = 11_689_512 - 3 * 64 * (7 * 7 - 3 * 3) - (512 * 1000 + 1000) + (512 * 10 + 10)
        assert sum(p.numel() for p in model.parameters()) == expected == 11_173_962


@pytest.mark.parametrize("name", ["cnn", *TORCHVISION_MODELS, "timm:test_resnet"])
def test_initial_weights_come_from_torchs_generators(name: str) -> None:
    models = []
    for seed in (0, 0, 1):
        with torch_rng(None, seed, "proxy"):
            models.append(build(Proxy(name=name), GRAY))
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


class TestFile:
    @pytest.mark.parametrize("name", ["cnn", "resnet18", "timm:test_resnet"])
    def test_round_trip(self, tmp_path: Path, name: str) -> None:
        model = build(Proxy(name=name), COLOUR)
        for buffer in model.buffers():
            buffer += 3  # so that batch norm's statistics differ from their initial values
        save_model(model, str(tmp_path / "a.safetensors"))
        assert same(build(Proxy(name=name, init=f"file:{tmp_path}/a.safetensors"), COLOUR), model)

    def test_home_folder_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        model = build(Proxy(), GRAY)
        save_model(model, str(tmp_path / "a.safetensors"))
        assert same(build(Proxy(init="file:~/a.safetensors"), GRAY), model)

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "none.safetensors"
        assert message_of(init=f"file:{file}").startswith(f"proxy.init: '{file}' does not hold this model's weights")

    def test_damaged_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(b"not weights")
        assert "does not hold this model's weights" in message_of(init=f"file:{tmp_path}/a.safetensors")

    def test_message_names_weights_of_another_shape(self, tmp_path: Path) -> None:
        save_model(build(Proxy(), ImageShape(3, 32, 10)), str(tmp_path / "a.safetensors"))
        message = message_of(init=f"file:{tmp_path}/a.safetensors")
        assert "does not hold this model's weights" in message
        assert "classifier.3" in message
        assert "\n" not in message

    def test_message_names_unknown_weights(self, tmp_path: Path) -> None:
        save_file({"odd": torch.zeros(2)}, tmp_path / "a.safetensors")
        message = message_of(init=f"file:{tmp_path}/a.safetensors")
        assert "odd" in message or "classifier.3" in message


class TestPretrained:
    """torchvision downloads into `TORCH_HOME`, and does not download a file that is already there."""

    @pytest.fixture
    def downloaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
        torch.manual_seed(1)
        model = torchvision.models.mobilenet_v2()
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        name = Path(torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url).name
        torch.save(model.state_dict(), tmp_path / "hub" / "checkpoints" / name)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        return model

    @pytest.mark.parametrize("stem", [None, "cifar"])
    @pytest.mark.parametrize("norm", [None, "batch"])
    def test_all_weights_but_the_head_are_pretrained(self, downloaded: nn.Module, stem: Any, norm: Any) -> None:
        spec = Proxy(name="mobilenet_v2", stem=stem, norm=norm, init="pretrained:IMAGENET1K_V1")
        found, expected = build(spec, COLOUR).state_dict(), downloaded.state_dict()
        assert found.keys() == expected.keys()
        other = [name for name in expected if not torch.equal(found[name], expected[name])]
        assert other == ["classifier.1.weight", "classifier.1.bias"]
        assert found["classifier.1.weight"].shape == (7, 1280)

    def test_failed_download_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no server: the connection is refused at once
        monkeypatch.setenv("no_proxy", "")
        message = message_of(name="mobilenet_v2", init="pretrained")
        assert message.startswith("proxy.init: the weights MobileNet_V2_Weights.")
        assert "could not be downloaded" in message

    @pytest.mark.parametrize("name", TORCHVISION_MODELS)
    def test_group_norm_has_no_pretrained_weights(self, name: str) -> None:
        message = message_of(name=name, norm="group", init="pretrained")
        assert message == "proxy.init: pretrained weights need batch norm and colour images."

    @pytest.mark.parametrize("name", TORCHVISION_MODELS)
    def test_gray_images_have_no_pretrained_weights(self, name: str) -> None:
        message = message_of(GRAY, name=name, init="pretrained")
        assert message == "proxy.init: pretrained weights need batch norm and colour images."

    def test_resnet18_with_cifar_stem_has_no_pretrained_weights(self) -> None:
        message = message_of(name="resnet18", stem="cifar", init="pretrained")
        assert message == "proxy.init: resnet18's pretrained weights do not fit stem 'cifar'; use 'imagenet'."

    def test_unknown_tag(self) -> None:
        assert message_of(name="mobilenet_v2", init="pretrained:IMAGENET21K") == (
            "proxy.init: mobilenet_v2 has no weights 'IMAGENET21K', only IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT."
        )

    def test_unknown_tag_of_timm(self) -> None:
        message = message_of(name="timm:test_resnet", init="pretrained:r161_in1k")
        assert message.startswith("proxy.init: timm could not load 'pretrained:r161_in1k' for test_resnet")
        assert "Invalid pretrained tag (r161_in1k)" in message

    def test_cnn_has_no_stem_and_no_pretrained_weights(self) -> None:
        expected = "proxy: the cnn has neither a stem nor pretrained weights; leave out stem and init."
        assert message_of(init="pretrained") == message_of(stem="cifar") == expected


class TestRefused:
    def test_unknown_timm_model(self) -> None:
        assert message_of(name="timm:resnet19") in [
            f"proxy.name: timm has no model 'resnet19'; did you mean '{near}'?" for near in timm.list_models("resnet1*")
        ]

    @pytest.mark.parametrize("option", [{"stem": "cifar"}, {"norm": "group"}])
    def test_options_of_timm_models(self, option: dict[str, str]) -> None:
        message = message_of(name="timm:test_resnet", **option)
        assert message == "proxy: stem and norm cannot be set for a timm model; leave them out."

    def test_images_too_small_for_the_cnn(self) -> None:
        message = message_of(ImageShape(3, 3, 7))
        assert message == "proxy: the cnn needs images of at least 4x4 pixels, but the data has 3x3."

    def test_unknown_name(self) -> None:
        with pytest.raises(ValidationError, match=r"or timm:NAME; did you mean 'resnet18'\?"):
            Proxy(name="resnet-18")

    @pytest.mark.parametrize("init", ["file:", "pretrained:", "zeros", ""])
    def test_invalid_init(self, init: str) -> None:
        with pytest.raises(ValidationError):
            Proxy(init=init)
