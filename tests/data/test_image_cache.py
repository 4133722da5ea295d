"""Decoded images are found again, as long as nothing that decides them has changed."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.images import picture, png, write_parquet

from fedray.data import image_cache as module
from fedray.data import sources
from fedray.data.image_cache import Images, cached_images

BLOBS = [f"image {number}".encode() for number in range(module.MIN_IMAGES)]


def images(value: int) -> Images:
    return np.full((module.MIN_IMAGES, 3, 2, 2), value, np.uint8)


def known() -> Images:
    raise AssertionError("it has been decoded before")


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["FEDRAY_CACHE"]) / "images"


def test_what_was_decoded_is_found_again(folder: Path) -> None:
    assert cached_images(BLOBS, "as it is", lambda: images(1)).tobytes() == images(1).tobytes()
    again = cached_images(BLOBS, "as it is", known)
    assert (again.shape, again.dtype, again.tobytes()) == ((module.MIN_IMAGES, 3, 2, 2), np.uint8, images(1).tobytes())
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    ("blobs", "how"),
    [
        ([*BLOBS[1:], b"another"], "as it is"),
        ([BLOBS[1], BLOBS[0], *BLOBS[2:]], "as it is"),
        ([BLOBS[0] + BLOBS[1][:1], BLOBS[1][1:], *BLOBS[2:]], "as it is"),  # the same bytes, cut elsewhere
        (BLOBS, "smaller"),
    ],
)
def test_others_are_not_taken_for_them(blobs: list[bytes], how: str) -> None:
    cached_images(BLOBS, "as it is", lambda: images(1))
    assert cached_images(blobs, how, lambda: images(2))[0, 0, 0, 0] == 2


def test_few_and_very_many_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_images(BLOBS[1:], "", lambda: images(1))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", images(1).nbytes - 1)
    cached_images(BLOBS, "", lambda: images(1))
    assert not folder.exists()


def test_a_file_that_is_cut_short_is_made_again(folder: Path) -> None:
    cached_images(BLOBS, "", lambda: images(1))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for length in (0, 20, len(whole) - 1):
        file.write_bytes(whole[:length])
        cached_images(BLOBS, "", lambda: images(1))
        assert file.read_bytes() == whole


def test_those_that_were_not_used_for_longest_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = images(1).nbytes + 128  # with NumPy's header
    monkeypatch.setattr(module, "IMAGE_CACHE_BYTES", 2 * size)
    for number, how in enumerate(("a", "b")):
        cached_images(BLOBS, how, lambda: images(1))
        for file in folder.iterdir():
            if file.stat().st_mtime > 10:
                os.utime(file, (number, number))
    cached_images(BLOBS, "a", known)  # and so b is the older one
    cached_images(BLOBS, "c", lambda: images(1))
    assert len(list(folder.iterdir())) == 2
    cached_images(BLOBS, "a", known)
    cached_images(BLOBS, "c", known)


def test_what_cannot_be_touched_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    cached_images(BLOBS, "", lambda: images(1))
    monkeypatch.setattr(os, "utime", refuse)
    assert cached_images(BLOBS, "", known).tobytes() == images(1).tobytes()


def test_where_it_cannot_be_written_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "file" / "below"))
    assert cached_images(BLOBS, "", lambda: images(1))[0, 0, 0, 0] == 1


def test_a_parquet_is_read_to_the_same_bits_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [png(picture(seed % 7)) for seed in range(module.MIN_IMAGES)]
    write_parquet(tmp_path / "a.parquet", pictures, [0] * module.MIN_IMAGES)

    def read(count: int, size: int | None) -> sources.Dataset:
        choose: Callable[[sources.Indices], sources.Indices] = lambda labels: np.arange(len(labels))[-count:]  # noqa: E731
        return sources.read(f"parquet:{tmp_path}/a.parquet", "train", choose, size)

    first = read(module.MIN_IMAGES, None)
    assert first.images[8].transpose(1, 2, 0).tobytes() == picture(1).tobytes()
    smaller, fewer = read(module.MIN_IMAGES, 4), read(module.MIN_IMAGES - 1, None)
    assert smaller.images.shape == (module.MIN_IMAGES, 3, 4, 4)
    assert fewer.images.tobytes() == first.images[1:].tobytes()
    monkeypatch.setattr(sources, "_decode_uncached", known)
    assert read(module.MIN_IMAGES, None).images.tobytes() == first.images.tobytes()
    assert read(module.MIN_IMAGES, 4).images.tobytes() == smaller.images.tobytes()
