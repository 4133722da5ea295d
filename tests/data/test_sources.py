"""Image sources that the tests write in the formats of public data sets."""

import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.images import picture, png, write_folder, write_parquet
from helpers.sources import channels_first, message_of, only, read_all
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from fedray.data.sources import read
from fedray.errors import SpecError


class TestDigits:
    def test_every_fifth_of_each_class_is_test(self) -> None:
        target = load_digits().target
        expected = sorted(i for label in range(10) for i in np.flatnonzero(target == label)[::5])
        train, test = read_all("digits"), read_all("digits", "test")
        assert test.rows.tolist() == expected
        assert len(train) + len(test) == len(target) == 1797
        assert set(train.rows) | set(test.rows) == set(range(1797))
        assert set(train.rows).isdisjoint(test.rows)
        assert set(train.labels) == set(test.labels) == set(range(10))

    def test_images_are_gray_and_use_the_full_byte_range(self) -> None:
        data = read_all("digits")
        assert data.images.dtype == np.uint8
        assert data.images.shape == (len(data), 1, 8, 8)
        original = load_digits().images[data.rows]
        np.testing.assert_allclose(data.images[:, 0], original * 255 / 16, atol=0.5)
        assert data.labels.tolist() == load_digits().target[data.rows].tolist()
        assert data.classes == tuple("0123456789")
        assert data.paths is None

    def test_chosen_images_are_read_in_the_given_order(self) -> None:
        data, chosen = read_all("digits"), read("digits", "train", only(7, 3), None)
        assert chosen.rows.tolist() == data.rows[[7, 3]].tolist()
        np.testing.assert_array_equal(chosen.images, data.images[[7, 3]])

    def test_size_resizes_images(self) -> None:
        data = read("digits", "train", only(7), 16)
        plain = read("digits", "train", only(7), None).images[0, 0]
        assert data.images.shape == (1, 1, 16, 16)
        expected = np.asarray(Image.fromarray(plain).resize((16, 16), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(data.images[0, 0], expected)


class TestFolder:
    def test_one_folder_per_class(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "set", ["emu", "cat"], per_class=2)
        data = read_all(f"folder:{tmp_path}/set")
        assert data.classes == ("cat", "emu")
        assert data.labels.tolist() == [0, 0, 1, 1]
        assert data.paths is not None
        assert data.paths.tolist() == ["cat/0.png", "cat/1.png", "emu/0.png", "emu/1.png"]
        expected = np.stack([channels_first(picture(seed)) for seed in (100, 101, 0, 1)])
        np.testing.assert_array_equal(data.images, expected)
        assert data.name == "set"

    def test_files_that_are_not_chosen_are_not_read(self, tmp_path: Path) -> None:
        write_folder(tmp_path, ["cat", "emu"], per_class=2)
        (tmp_path / "cat" / "0.png").write_bytes(b"not an image")
        data = read(f"folder:{tmp_path}", "test", lambda labels: np.flatnonzero(labels == 1), None)
        assert data.rows.tolist() == [2, 3]
        with pytest.raises(SpecError, match=r"data.test: the image 'cat/0.png' cannot be decoded"):
            read_all(f"folder:{tmp_path}", "test")

    def test_missing_folder(self, tmp_path: Path) -> None:
        assert message_of(f"folder:{tmp_path}/none") == (
            f"data.train: 'folder:{tmp_path}/none' is not a folder with one folder of images per class."
        )

    def test_folder_without_class_folders(self, tmp_path: Path) -> None:
        (tmp_path / "0.png").write_bytes(png(picture(0)))
        assert "one folder of images per class" in message_of(f"folder:{tmp_path}")

    def test_class_folders_without_images(self, tmp_path: Path) -> None:
        write_folder(tmp_path, ["cat", "emu"], per_class=0)
        assert message_of(f"folder:{tmp_path}").startswith("data.train:")


class TestSize:
    def test_resizes_shorter_side_then_crops_centre(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        wide = np.zeros((20, 40, 3), dtype=np.uint8)
        wide[:, 10:30] = 255  # the centre square is white, both sides are black
        (tmp_path / "cat" / "wide.png").write_bytes(png(wide))
        (tmp_path / "cat" / "tall.png").write_bytes(png(np.ascontiguousarray(wide.transpose(1, 0, 2))))
        data = read_all(f"folder:{tmp_path}", size=10)
        assert data.images.shape == (2, 3, 10, 10)
        assert data.images[..., 1:-1, 1:-1].min() > 250

    def test_resizing_is_bicubic(self, tmp_path: Path) -> None:
        write_folder(tmp_path, ["cat"], per_class=1, size=24)
        resized = read_all(f"folder:{tmp_path}", size=10).images[0]
        expected = ImageOps.fit(Image.fromarray(picture(0, 24)), (10, 10), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(resized, channels_first(np.asarray(expected)))

    def test_images_of_the_given_size_are_unchanged(self, tmp_path: Path) -> None:
        write_folder(tmp_path, ["cat"], per_class=1, size=24)
        np.testing.assert_array_equal(
            read_all(f"folder:{tmp_path}", size=24).images, read_all(f"folder:{tmp_path}").images
        )

    def test_images_of_different_sizes_need_size(self, tmp_path: Path) -> None:
        blobs = [png(picture(0, size=8)), png(picture(1, size=10))]
        write_parquet(tmp_path / "a.parquet", blobs, [0, 1])
        message = message_of(f"parquet:{tmp_path}/a.parquet")
        assert "must all be square and of one size" in message
        assert message.endswith("set data.size.")
        assert read_all(f"parquet:{tmp_path}/a.parquet", size=8).images.shape == (2, 3, 8, 8)

    def test_oblong_images_need_size(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [png(np.zeros((6, 8, 3), dtype=np.uint8))], [0])
        assert message_of(f"parquet:{tmp_path}/a.parquet").endswith("set data.size.")


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Twelve training and three test images in the folder of torchvision's MNIST, so that it downloads nothing."""
    raw = tmp_path / "MNIST" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (15, 28, 28), dtype=np.uint8)
    labels = (np.arange(15) % 10).astype(np.uint8)
    for name, part in (("train", slice(0, 12)), ("t10k", slice(12, 15))):
        count = len(labels[part])
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images[part].tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels[part].tobytes())
    monkeypatch.setenv("FEDRAY_DATA", str(tmp_path))
    return images, labels


class TestTorchvision:
    def test_reads_mnist(self, mnist: tuple[np.ndarray, np.ndarray]) -> None:
        images, labels = mnist
        train, test = read_all("torchvision:MNIST"), read_all("torchvision:MNIST", "test")
        np.testing.assert_array_equal(train.images[:, 0], images[:12])
        np.testing.assert_array_equal(test.images[:, 0], images[12:])
        assert train.labels.tolist() + test.labels.tolist() == labels.tolist()
        assert train.classes[:2] == ("0 - zero", "1 - one")
        assert (train.name, train.paths) == ("MNIST", None)

    def test_chosen_images_are_resized(self, mnist: tuple[np.ndarray, np.ndarray]) -> None:
        images, _ = mnist
        data = read("torchvision:MNIST", "train", only(9, 4), 32)
        assert data.rows.tolist() == data.labels.tolist() == [9, 4]
        expected = Image.fromarray(images[9]).resize((32, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(data.images[0, 0], np.asarray(expected))

    def test_unknown_data_set(self) -> None:
        assert message_of("torchvision:CIFAR11") == (
            "data.train: torchvision has no data set 'CIFAR11'; did you mean 'CIFAR10'?"
        )

    def test_nearest_name_ignores_case(self) -> None:
        assert message_of("torchvision:cifar10").endswith("did you mean 'CIFAR10'?")

    def test_failed_download(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for scheme in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # a closed port refuses at once
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("FEDRAY_DATA", str(tmp_path))
        message = message_of("torchvision:MNIST")
        assert message.startswith(f"data.train: torchvision could not load MNIST from {tmp_path} (")
        assert "\n" not in message

    @pytest.mark.usefixtures("mnist")
    def test_damaged_file(self, tmp_path: Path) -> None:
        file = tmp_path / "MNIST" / "MNIST" / "raw" / "train-images-idx3-ubyte"
        file.write_bytes(file.read_bytes()[:-100])
        assert message_of("torchvision:MNIST").startswith("data.train: torchvision could not load MNIST")


@pytest.mark.parametrize(
    ("source", "meant"), [("digit", "digits"), ("parket:a.parquet", "parquet"), ("foldr:x", "folder")]
)
def test_unknown_source(source: str, meant: str) -> None:
    assert message_of(source) == (
        f"data.train: unknown source '{source}'; use one of digits, torchvision, parquet, folder; "
        f"did you mean '{meant}'?"
    )


@pytest.mark.parametrize("source", ["parquet", "parquet:", "folder", "folder:", "torchvision:"])
def test_source_without_argument_does_not_read_the_working_folder(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, ["cat"], per_class=1)
    write_parquet(tmp_path / "a.parquet", [png(picture(0))], [0])
    monkeypatch.chdir(tmp_path)
    message_of(source)
