"""Folders with one folder of images per class."""

import os
from functools import cache
from pathlib import Path

import numpy as np

from fedray.data.dataset import Dataset
from fedray.data.decoding import decode
from fedray.data.request import LeftOut, ReadRequest, reading
from fedray.errors import SpecError

SYSTEM_NAMES = frozenset(
    {"__macosx", "__pycache__", "@eadir", "lost+found", "$recycle.bin", "system volume information", "thumbs.db",
     "desktop.ini"}
)  # fmt: skip
"""Names, in lower case, of folders and files that systems and tools leave behind."""


def read_folder(argument: str, request: ReadRequest) -> Dataset:
    """Read `ROOT/CLASS/IMAGE`. Whatever else is below the root is left out and noted."""
    root, source = Path(argument).expanduser(), f"folder:{argument}"
    left_out = LeftOut()
    with reading(f"{request.field}: '{source}'"):
        folders = _class_folders(root, left_out)
        if not folders:
            raise SpecError(f"{request.field}: '{source}' is not a folder with one folder of images per class.")
        images_of = {name: images for name in folders if (images := _images(root, name, left_out))}
    notes = [*left_out.notes(request.field, source)]
    if not images_of:
        raise SpecError(f"{request.field}: '{source}' has no images{f' ({notes[0]})' if notes else ''}.")
    labels = np.repeat(np.arange(len(images_of)), [len(images) for images in images_of.values()])
    rows = request.choose(labels)
    files = [path for images in images_of.values() for path in images]
    paths = [files[row] for row in rows]
    blobs = [_read_file(root, path, request.field) for path in paths]
    pixels = decode(blobs, paths, request.field, request.size, notes)
    names = np.array(paths, dtype=np.str_)
    return Dataset(root.name, pixels, labels[rows], rows, names, tuple(images_of), left_out=tuple(notes))


def _class_folders(root: Path, left_out: LeftOut) -> list[str]:
    classes = []
    for child in sorted(root.iterdir()) if root.is_dir() else []:
        if not child.is_dir():
            left_out.add(*_reason(child, "files next to the class folders"))
        elif is_junk(child.name):
            left_out.add("hidden or system folders", child.name)
        else:
            classes.append(child.name)
    return classes


def _images(root: Path, name: str, left_out: LeftOut) -> list[str]:
    """Returns the paths, relative to the root, of the images of one class."""
    images = []
    for child in sorted((root / name).iterdir()):
        path = f"{name}/{child.name}"
        if child.is_dir():
            _count_deeper(child, path, left_out)
        elif is_junk(child.name):
            left_out.add("hidden or system files", path)
        elif not child.is_file():
            left_out.add(_reason(child, "special files")[0], path)
        elif not _may_be_image(child):
            left_out.add("files that are no images", path)
        else:
            images.append(path)
    if not images:
        left_out.add("class folders without images", name)
    return images


def _count_deeper(folder: Path, path: str, left_out: LeftOut) -> None:
    if is_junk(folder.name):
        left_out.add("hidden or system folders", path)
        return
    left_out.add("files in deeper folders", path, sum(len(names) for _, _, names in os.walk(folder)))


def _reason(child: Path, reason: str) -> tuple[str, str]:
    if is_junk(child.name):
        return "hidden or system files", child.name
    return ("dangling links" if child.is_symlink() and not child.exists() else reason), child.name


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden or one that systems leave behind."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _may_be_image(file: Path) -> bool:
    """Whether the file's extension is that of an image format, or else its content can be identified as one."""
    from PIL import Image, UnidentifiedImageError

    if file.suffix.lower() in _image_extensions():
        return True
    try:
        with file.open("rb") as stream:
            Image.open(stream)
    except UnidentifiedImageError:
        return False
    except Exception:
        return True
    return True


@cache
def _image_extensions() -> frozenset[str]:
    from PIL import Image

    extensions = Image.registered_extensions()
    return frozenset(suffix for suffix, format_name in extensions.items() if format_name in Image.OPEN)


def _read_file(root: Path, path: str, field: str) -> bytes:
    with reading(f"{field}: the image '{path}'"):
        return (root / path).read_bytes()
