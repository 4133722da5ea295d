"""What a node says of itself.

It is sent to the nodes as it stands, for a node may have another fedray, or none: at the top it imports only
what comes with Python, and what it returns is made of plain dicts and numbers.
"""

import glob
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("fedray", "ray", "torch", "torchvision", "open_clip_torch", "timm", "numpy")


class Present:
    """An actor that is there."""

    def answer(self) -> bool:
        return True


def look(files: list[str]) -> dict[str, Any]:
    """Its clock, software, memory and disk, and what the files that a spec names are like there."""
    temp = _temp_folder()
    return {
        "time": time.time(),
        "software": software(),
        "memory": _memory(),
        "bfloat16": _bfloat16(),
        "temp": temp,
        "disk": shutil.disk_usage(_nearest(Path(temp)))[::2],
        "folder": str(Path.cwd()),
        "files": {text: _contents(text) for text in files},
    }


def software() -> dict[str, Any]:
    """Versions, without importing anything; packages that are not there are left out."""
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "python": platform.python_version(),
        "packages": packages,
        "source": _source(),
        "executable": sys.executable,
    }


def gpus() -> list[tuple[str, int, int]]:
    """Of each GPU that torch can use: its name, bytes free and bytes in all. Takes seconds: torch is imported."""
    found = []
    with suppress(ImportError, RuntimeError):  # no torch, or a driver that it cannot work with
        import torch

        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            found.append((torch.cuda.get_device_name(number), free, total))
    return found


def visit(place: str, mark: str, reply: str) -> dict[str, Any]:
    """Read what another process has left in a folder or under a URI, and leave a reply beside it."""
    try:
        return _visit_uri(place, mark, reply) if "://" in place else _visit_folder(Path(place), mark, reply)
    except ImportError:
        return {"read": "", "problem": "fedray is not installed there", "free": None}
    except Exception as error:  # whatever a library of that node says, the others are still to be asked
        return {"read": "", "problem": _line(error), "free": None}


def _visit_folder(folder: Path, mark: str, reply: str) -> dict[str, Any]:
    free = shutil.disk_usage(_nearest(folder)).free
    try:
        read = (folder / mark / "token").read_text()
        (folder / mark / reply).write_text(read)
    except FileNotFoundError:
        return {"read": "", "problem": "", "free": free}
    return {"read": read, "problem": "", "free": free}


def _visit_uri(uri: str, mark: str, reply: str) -> dict[str, Any]:
    from fedray.results.remote import Remote

    folder = Remote(uri, mark)
    if "token" not in folder.facts():
        return {"read": "", "problem": "", "free": None}
    with tempfile.TemporaryDirectory() as own:
        copy = Path(own) / "token"
        folder.download("token", copy, 0)
        folder.upload(copy, reply)
        return {"read": copy.read_text(), "problem": "", "free": None}


def _line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).partition("\n")[0]


def _temp_folder() -> str:
    """Where Ray spills objects to: what its workers are told."""
    told = [word.removeprefix("--temp-dir=") for word in sys.argv if word.startswith("--temp-dir=")]
    return told[0] if told else tempfile.gettempdir()


def _nearest(path: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _memory() -> tuple[int, int] | None:
    """Bytes in all and free, no more than its container may use; None where /proc does not tell."""
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        known = {line[0]: 1024 * int(line[1]) for line in lines}
    except OSError:
        return None
    total, free = known["MemTotal:"], known["MemAvailable:"]
    with suppress(OSError, ValueError):  # "max" where nothing is set
        group = Path("/sys/fs/cgroup")
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        total, free = min(total, limit), max(0, min(free, limit - used))
    return total, free


def _bfloat16() -> bool | None:
    """Whether its processor has instructions for it; None where /proc does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    found = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(found & {"avx512_bf16", "amx_bf16", "bf16"}) if found else None


def _source() -> str:
    """A hash of fedray's own code: an installation that is edited keeps its version."""
    found = find_spec("fedray")
    if found is None or not found.submodule_search_locations:
        return ""
    root = Path(found.submodule_search_locations[0])
    texts = [(path.relative_to(root).as_posix(), path.read_bytes()) for path in sorted(root.rglob("*.py"))]
    return hashlib.sha256(repr(texts).encode()).hexdigest()[:8]


def _contents(text: str) -> int | None:
    """Roughly what is there: the size of a file, of the files of a pattern, or of what a folder holds; None if nothing.

    Relative paths are relative to where Ray was started on the node, as they are for those who will read them.
    """
    kind, colon, path = text.partition(":")
    if colon and kind == "torchvision":
        return 0 if (Path(os.environ.get("FEDRAY_DATA", "~/.cache/fedray/data")).expanduser() / path).is_dir() else None
    path = path if colon and kind in ("parquet", "folder", "file", "local-dir") else text
    found = [Path(name) for name in glob.glob(str(Path(path).expanduser()))]  # noqa: PTH207  an absolute pattern
    return sum(map(_size, found)) if found else None


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(child.stat().st_size if child.is_file() else 1 for child in path.iterdir())
    return path.stat().st_size
