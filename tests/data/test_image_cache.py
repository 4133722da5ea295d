"""The cache returns decoded images as long as the encoded images and the settings are the same."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.images import picture, png, write_parquet

from fedray.data import decoding, sources
from fedray.data import image_cache as module
from fedray.data.image_cache import Images, cached_images

BLOBS = [f"image {number}".encode() for number in range(module.MIN_IMAGES)]


def images(value: int) -> Images:
    return np.full((module.MIN_IMAGES, 3, 2, 2), value, np.uint8)


def fail() -> Images:
    raise AssertionError("the images are cached and must not be decoded")


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["FEDRAY_CACHE"]) / "images"


def test_decoded_images_are_cached(folder: Path) -> None:
    assert cached_images(BLOBS, "plain", lambda: images(1)).tobytes() == images(1).tobytes()
    again = cached_images(BLOBS, "plain", fail)
    assert (again.shape, again.dtype, again.tobytes()) == ((module.MIN_IMAGES, 3, 2, 2), np.uint8, images(1).tobytes())
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("blobs", "settings"),
    [
        ([*BLOBS[1:], b"another"], "plain"),
        ([BLOBS[1], BLOBS[0], *BLOBS[2:]], "plain"),
        ([BLOBS[0] + BLOBS[1][:1], BLOBS[1][1:], *BLOBS[2:]], "plain"),  # the same bytes, divided differently
        (BLOBS, "smaller"),
    ],
)
def test_other_images_or_settings_have_other_entries(blobs: list[bytes], settings: str) -> None:
    cached_images(BLOBS, "plain", lambda: images(1))
    assert cached_images(blobs, settings, lambda: images(2))[0, 0, 0, 0] == 2


def test_small_and_very_large_sets_are_not_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_images(BLOBS[1:], "", lambda: images(1))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", images(1).nbytes - 1)
    cached_images(BLOBS, "", lambda: images(1))
    assert not folder.exists()


def test_truncated_file_is_replaced(folder: Path) -> None:
    cached_images(BLOBS, "", lambda: images(1))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for length in (0, 20, len(whole) - 1):
        file.write_bytes(whole[:length])
        cached_images(BLOBS, "", lambda: images(1))
        assert file.read_bytes() == whole


def test_least_recently_used_file_is_deleted_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = images(1).nbytes + 128  # 128 bytes are NumPy's header
    monkeypatch.setattr(module, "IMAGE_CACHE_BYTES", 2 * size)
    for number, settings in enumerate(("a", "b")):
        cached_images(BLOBS, settings, lambda: images(1))
        for file in folder.iterdir():
            if file.stat().st_mtime > 10:
                os.utime(file, (number, number))
    cached_images(BLOBS, "a", fail)  # so that b is the least recently used
    cached_images(BLOBS, "c", lambda: images(1))
    assert len(list(folder.iterdir())) == 2
    cached_images(BLOBS, "a", fail)
    cached_images(BLOBS, "c", fail)


def test_file_of_another_user_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    cached_images(BLOBS, "", lambda: images(1))
    monkeypatch.setattr(os, "utime", refuse)
    assert cached_images(BLOBS, "", fail).tobytes() == images(1).tobytes()


def test_unwritable_cache_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "file" / "below"))
    assert cached_images(BLOBS, "", lambda: images(1))[0, 0, 0, 0] == 1


def test_parquet_is_read_from_the_cache_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = [png(picture(seed % 7)) for seed in range(module.MIN_IMAGES)]
    write_parquet(tmp_path / "a.parquet", blobs, [0] * module.MIN_IMAGES)

    def read(count: int, size: int | None) -> sources.Dataset:
        choose: Callable[[sources.Indices], sources.Indices] = lambda labels: np.arange(len(labels))[-count:]  # noqa: E731
        return sources.read(f"parquet:{tmp_path}/a.parquet", "train", choose, size)

    first = read(module.MIN_IMAGES, None)
    assert first.images[8].transpose(1, 2, 0).tobytes() == picture(1).tobytes()
    smaller, fewer = read(module.MIN_IMAGES, 4), read(module.MIN_IMAGES - 1, None)
    assert smaller.images.shape == (module.MIN_IMAGES, 3, 4, 4)
    assert fewer.images.tobytes() == first.images[1:].tobytes()
    monkeypatch.setattr(decoding, "_decode_uncached", fail)
    assert read(module.MIN_IMAGES, None).images.tobytes() == first.images.tobytes()
    assert read(module.MIN_IMAGES, 4).images.tobytes() == smaller.images.tobytes()
