"""What is left out of a folder of images is counted and noted."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.images import picture, png, write_folder
from helpers.sources import channels_first, message_of, read_all


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of each of the classes cat and dog."""
    write_folder(tmp_path / "set", ["cat", "dog"], per_class=2)
    return tmp_path / "set"


def left_out(root: Path) -> str:
    """Returns the note of a folder that is read with its two classes of two images."""
    data = read_all(f"folder:{root}")
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1]
    return "; ".join(data.left_out)


def test_nothing_is_left_out(root: Path) -> None:
    assert left_out(root) == ""


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"])
def test_hidden_and_system_folders_are_no_classes(root: Path, name: str) -> None:
    (root / name).mkdir()
    (root / name / "0.png").write_bytes(png(picture(0)))
    assert left_out(root) == f"data.train left out of 'folder:{root}': hidden or system folders: 1 ({name})"


@pytest.mark.parametrize("name", [".DS_Store", "._0.png", "Thumbs.db", "desktop.ini"])
def test_hidden_and_system_files_are_left_out(root: Path, name: str) -> None:
    (root / "cat" / name).write_bytes(b"x")
    assert left_out(root).endswith(f"hidden or system files: 1 (cat/{name})")


def test_files_that_are_no_images_are_left_out(root: Path) -> None:
    (root / "cat" / "notes.txt").write_text("nothing")
    (root / "dog" / "checksums").write_text("")
    assert left_out(root).endswith("files that are no images: 2 (cat/notes.txt)")


def test_image_without_an_extension_is_read(root: Path) -> None:
    (root / "cat" / "0.png").rename(root / "cat" / "0")
    assert left_out(root) == ""


def test_dangling_links_are_counted(root: Path) -> None:
    for name in ("2.png", "3.png"):
        (root / "cat" / name).symlink_to("/nowhere/objects")
    (root / "emu").symlink_to("/nowhere/emu")
    assert left_out(root).endswith("dangling links: 3 (emu)")


def test_deeper_files_are_counted(root: Path) -> None:
    (root / "cat" / "more" / "deep").mkdir(parents=True)
    for name in ("more/4.png", "more/deep/5.png"):
        (root / "cat" / name).write_bytes(png(picture(0)))
    assert left_out(root).endswith("files in deeper folders: 2 (cat/more)")


def test_files_beside_the_class_folders_are_counted(root: Path) -> None:
    (root / "README.md").write_text("")
    assert left_out(root).endswith("files next to the class folders: 1 (README.md)")


def test_class_folder_without_images_is_no_class(root: Path) -> None:
    (root / "emu").mkdir()
    assert left_out(root).endswith("class folders without images: 1 (emu)")


def test_special_files_are_counted(root: Path) -> None:
    os.mkfifo(root / "cat" / "4.png")
    assert left_out(root).endswith("special files: 1 (cat/4.png)")


def test_folder_of_dangling_links_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").symlink_to("/nowhere")
    assert "dangling links: 1 (cat/0.png)" in message_of(f"folder:{tmp_path}")


@pytest.mark.slow
def test_folder_that_cannot_be_listed_is_named() -> None:
    assert message_of("folder:/proc/self").startswith("data.train:")


def test_brackets_in_a_folder_are_literal(tmp_path: Path) -> None:
    write_folder(tmp_path / "set[v1]", ["cat"], per_class=1)
    np.testing.assert_array_equal(read_all(f"folder:{tmp_path}/set[v1]").images[0], channels_first(picture(0)))
