"""The cache returns decoded images as long as the encoded images and the settings are the same."""

import os
import pickle
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.images import picture, png, write_parquet

from fedray.data import decoding, sources
from fedray.data import image_cache as module
from fedray.data.image_cache import Images, cached_images
from fedray.models.weights import WeightsFile

BLOBS = [f"image {number}".encode() for number in range(module.MIN_IMAGES)]


def images(value: int) -> Images:
    return np.full((module.MIN_IMAGES, 3, 2, 2), value, np.uint8)


def cached(blobs: list[bytes], settings: str, decode: Callable[[], Images]) -> Images:
    """Read the images, without a report of damage."""
    reports: list[str] = []
    found = cached_images(blobs, settings, decode, reports.append)
    assert reports == []
    return found


def fail() -> Images:
    raise AssertionError("the images are cached and must not be decoded")


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["FEDRAY_CACHE"]) / "images"


def test_decoded_images_are_cached(folder: Path) -> None:
    assert cached(BLOBS, "plain", lambda: images(1)).tobytes() == images(1).tobytes()
    again = cached(BLOBS, "plain", fail)
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
    cached(BLOBS, "plain", lambda: images(1))
    assert cached(blobs, settings, lambda: images(2))[0, 0, 0, 0] == 2


def test_small_and_very_large_sets_are_not_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(BLOBS[1:], "", lambda: images(1))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", images(1).nbytes - 1)
    cached(BLOBS, "", lambda: images(1))
    assert not folder.exists()


def stored(folder: Path) -> Path:
    """Store the images; return their file."""
    cached(BLOBS, "", lambda: images(1))
    (file,) = folder.iterdir()
    return file


def rewrite(file: Path, **changes: np.ndarray) -> None:
    """Replace arrays of a file, with the right checksum."""
    WeightsFile(file).write({**WeightsFile(file).read(), **changes})


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "cannot be read"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "cannot be read"),
    "zeros": (lambda file: file.write_bytes(bytes(file.stat().st_size)), "cannot be read"),
    "one bit": (flip_bit, "its contents differ from its checksum"),
    "dtype": (lambda file: rewrite(file, images=images(1).astype(np.float64)), "it has float64[1000, 3, 2, 2]"),
    "count": (lambda file: rewrite(file, images=images(1)[1:]), "it has uint8[999, 3, 2, 2] for 1000 images"),
    "shape": (lambda file: rewrite(file, images=images(1)[..., :1]), "it has uint8[1000, 3, 2, 1] for 1000 images"),
    "another set": (lambda file: rewrite(file, key=np.zeros(32, np.uint8)), "it has the images of another data set"),
    "pickle": (lambda file: file.write_bytes(pickle.dumps(images(1))), "cannot be read"),
    "no images": (lambda file: WeightsFile(file).write({"key": np.zeros(32, np.uint8)}), "'images'"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_file_is_reported_and_replaced(folder: Path, kind: str) -> None:
    file, (damage, reason) = stored(folder), DAMAGES[kind]
    whole = file.read_bytes()
    damage(file)
    reports: list[str] = []
    assert cached_images(BLOBS, "", lambda: images(2), reports.append).tobytes() == images(2).tobytes()
    (report,) = reports
    assert report.startswith("decoded images in the cache are damaged and were decoded again (")
    assert reason in report
    assert len(file.read_bytes()) == len(whole)
    assert cached(BLOBS, "", fail).tobytes() == images(2).tobytes()


def test_missing_file_is_not_reported(folder: Path) -> None:
    stored(folder).unlink()
    cached(BLOBS, "", lambda: images(1))


def test_partial_files_of_ended_processes_are_removed(folder: Path) -> None:
    """Those of a living process, of another host and of a process of unknown host stay, the last two for an hour."""
    file = stored(folder)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = platform.node().replace(".", "_")
    kept = [f"a.{host}-{os.getpid()}.partial", f"b.elsewhere-{ended.pid}.partial", "c.partial"]
    removed = [f"d.{host}-{ended.pid}.partial", f"e.{ended.pid}.partial", "f.elsewhere-1.partial"]
    for name in (*kept, *removed):
        (folder / name).touch()
    os.utime(folder / removed[-1], (0, time.time() - 3601))
    cached(BLOBS, "", fail)
    assert sorted(path.name for path in folder.iterdir()) == sorted([file.name, *kept])


def test_full_disk_leaves_no_partial_file(folder: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    script = (
        "import resource, signal, numpy as np; from fedray.data.image_cache import cached_images\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "cached_images([b''] * 1000, '', lambda: np.zeros((1000, 3, 2, 2), np.uint8), print)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert list(folder.iterdir()) == []


def test_least_recently_used_file_is_deleted_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = stored(folder).stat().st_size
    monkeypatch.setattr(module, "IMAGE_CACHE_BYTES", 2 * size)
    for number, settings in enumerate(("a", "b")):
        cached(BLOBS, settings, lambda: images(1))
        for file in folder.iterdir():
            if file.stat().st_mtime > 10:
                os.utime(file, (number, number))
    cached(BLOBS, "a", fail)  # so that b is the least recently used
    cached(BLOBS, "c", lambda: images(1))
    assert len(list(folder.iterdir())) == 2
    cached(BLOBS, "a", fail)
    cached(BLOBS, "c", fail)


def test_file_of_another_user_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    cached(BLOBS, "", lambda: images(1))
    monkeypatch.setattr(os, "utime", refuse)
    assert cached(BLOBS, "", fail).tobytes() == images(1).tobytes()


def test_unwritable_cache_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDRAY_CACHE", str(tmp_path / "file" / "below"))
    assert cached(BLOBS, "", lambda: images(1))[0, 0, 0, 0] == 1


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
    assert first.left_out == ()
    assert read(module.MIN_IMAGES, None).images.tobytes() == first.images.tobytes()
    assert read(module.MIN_IMAGES, 4).images.tobytes() == smaller.images.tobytes()


def test_damage_is_a_warning_of_the_data_set(tmp_path: Path, folder: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [png(picture(0))] * module.MIN_IMAGES, [0] * module.MIN_IMAGES)
    read = lambda: sources.read(f"parquet:{tmp_path}/a.parquet", "train", lambda labels: np.arange(len(labels)), None)  # noqa: E731
    first = read()
    flip_bit(next(folder.iterdir()))
    again = read()
    assert again.images.tobytes() == first.images.tobytes()
    (clause,) = again.left_out
    assert clause.startswith("decoded images in the cache are damaged")
    assert read().left_out == ()
