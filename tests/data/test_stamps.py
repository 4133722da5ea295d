"""Stamps of sources change with their files; the content digest changes with what is read from them."""

import os
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedray.data import sources
from fedray.data.dataset import Dataset
from fedray.data.request import ReadRequest
from fedray.data.stamps import file_stamp, source_stamp
from fedray.types import Indices


def everything(labels: Indices) -> Indices:
    return np.arange(len(labels))


def stamp(source: str) -> str:
    return source_stamp(source, ReadRequest("train", everything, None))


def read(source: str) -> Dataset:
    return sources.read(source, "train", everything, None)


@pytest.fixture
def source(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A folder of four images in two classes, and parquet tables of their bytes and of their paths."""
    for number, name in enumerate(("cat", "cat", "dog", "dog")):
        (tmp_path / "root" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "root" / name / f"{number}.png")
    files = sorted((tmp_path / "root").rglob("*.png"))
    names = [str(file.relative_to(tmp_path)) for file in files]
    cells = {
        "bytes": [file.read_bytes() for file in files],
        "struct": [{"bytes": file.read_bytes(), "path": "x.png"} for file in files],
        "paths": names,
        "struct of paths": [{"bytes": None, "path": name} for name in names],
    }
    if request.param == "folder":
        return f"folder:{tmp_path / 'root'}"
    pd.DataFrame({"image": cells[request.param], "label": [0, 0, 1, 1]}).to_parquet(tmp_path / "t.parquet")
    return f"parquet:{tmp_path}/*.parquet"


READS_IMAGES = ("folder", "paths", "struct of paths")


@pytest.mark.parametrize("source", READS_IMAGES, indirect=True)
def test_another_image_changes_stamp_and_digest(source: str, tmp_path: Path) -> None:
    first, data = stamp(source), read(source)
    assert first
    assert stamp(source) == first == data.stamp
    assert read(source).content_digest == data.content_digest
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "root" / "dog" / "3.png")
    assert stamp(source) != first
    assert read(source).content_digest != data.content_digest


@pytest.mark.parametrize("source", ["bytes", "struct"], indirect=True)
def test_a_table_written_again_with_other_images_changes_both(source: str, tmp_path: Path) -> None:
    first, data = stamp(source), read(source)
    assert stamp(source) == first == data.stamp
    table = pd.read_parquet(tmp_path / "t.parquet")
    table.assign(label=[0, 1, 1, 1]).to_parquet(tmp_path / "t.parquet")
    assert stamp(source) != first
    assert read(source).content_digest != data.content_digest
    table.to_parquet(tmp_path / "t.parquet", compression="gzip")  # the same rows in other bytes
    assert stamp(source) != first
    assert read(source).content_digest == data.content_digest


@pytest.mark.parametrize("source", ["folder"], indirect=True)
def test_files_that_are_not_read_change_neither(source: str, tmp_path: Path) -> None:
    first, data = stamp(source), read(source)
    (tmp_path / "root" / ".DS_Store").touch()
    (tmp_path / "root" / "cat" / "Thumbs.db").touch()
    (tmp_path / "root" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "root" / ".ipynb_checkpoints" / "0.png").touch()
    assert stamp(source) == first
    (tmp_path / "root" / "cat" / "notes.txt").write_text("no image")
    assert stamp(source) != first
    assert read(source).content_digest == data.content_digest


@pytest.mark.parametrize("source", READS_IMAGES, indirect=True)
def test_copied_times_hide_a_change_from_the_stamp_only(source: str, tmp_path: Path) -> None:
    first, data = stamp(source), read(source)
    file = tmp_path / "root" / "dog" / "3.png"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    Image.new("RGB", (8, 8), (4, 0, 0)).save(file)
    os.utime(file, ns=times)
    assert stamp(source) == first
    assert read(source).content_digest != data.content_digest


def test_built_in_digits_have_both() -> None:
    assert stamp("digits")
    assert read("digits").stamp == stamp("digits")
    assert len(read("digits").content_digest) == 64


@pytest.mark.parametrize("source", ["folder", "bytes"], indirect=True)
def test_every_part_of_a_data_set_counts(source: str) -> None:
    data = read(source)
    others = [
        replace(data, images=data.images + 1),
        replace(data, labels=1 - data.labels),
        replace(data, rows=data.rows + 1),
        replace(data, classes=("a", "b")),
        replace(data, paths=np.array(list("abcd"))),
        data,
    ]
    assert len({each.content_digest for each in others}) == len(others)


def test_sources_that_cannot_be_read_have_no_stamp(tmp_path: Path) -> None:
    assert stamp(f"folder:{tmp_path}/none") == stamp(f"parquet:{tmp_path}/none") == stamp("mine:x") == ""
    assert file_stamp(tmp_path / "none") == ""


def test_stamp_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(b"first")
    first = file_stamp(tmp_path), file_stamp(tmp_path / "deep" / "weights")
    (tmp_path / "deep" / "weights").write_bytes(b"longer")
    assert all(
        now != before
        for now, before in zip((file_stamp(tmp_path), file_stamp(tmp_path / "deep" / "weights")), first, strict=True)
    )


def test_the_stamp_of_50000_files_takes_under_a_second(tmp_path: Path) -> None:
    """Hard links to one image, since only names, sizes and times are read."""
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    for label in range(10):
        (tmp_path / "root" / str(label)).mkdir(parents=True)
        for number in range(5000):
            os.link(image, tmp_path / "root" / str(label) / f"{number}.png")
    seconds = []
    for _ in range(2):
        start = perf_counter()
        assert stamp(f"folder:{tmp_path / 'root'}")
        seconds.append(perf_counter() - start)
    assert min(seconds) < 1
