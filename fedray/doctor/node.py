"""Functions that determine the state of a node, in a process of that node.

The module is sent to the nodes by value, because a node may have another fedray, or none. So its top imports only
the standard library, and the functions return plain dicts, lists and numbers.
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
from typing import TypedDict

PACKAGES = ("fedray", "ray", "torch", "torchvision", "open_clip_torch", "timm", "numpy")


class SoftwareDict(TypedDict):
    """Versions of Python and of packages; `source` is a hash of fedray's code."""

    python: str
    packages: dict[str, str]
    source: str
    executable: str


class NodeDict(TypedDict):
    """The state of a node; sizes are (total, free) in bytes, `time` is its clock in seconds since 1970."""

    time: float
    software: SoftwareDict
    memory: tuple[int, int] | None
    bfloat16: bool | None
    temp_folder: str
    disk: tuple[int, int]
    working_folder: str
    file_sizes: dict[str, int | None]


class AccessDict(TypedDict):
    """The token that a node read from a folder, and why it read none or could not reply."""

    token: str
    error: str
    free_bytes: int | None


class PingActor:
    """An actor to test whether actors start."""

    def ping(self) -> bool:
        """Return True."""
        return True


def describe_node(files: list[str]) -> NodeDict:
    """Determine clock, software, memory, disk, and the sizes of files by their names in the spec."""
    temp_folder = _temp_folder()
    usage = shutil.disk_usage(_nearest_folder(Path(temp_folder)))
    return {
        "time": time.time(),
        "software": software(),
        "memory": _memory(),
        "bfloat16": _has_bfloat16(),
        "temp_folder": temp_folder,
        "disk": (usage.total, usage.free),
        "working_folder": str(Path.cwd()),
        "file_sizes": {text: _file_size(text) for text in files},
    }


def software() -> SoftwareDict:
    """Determine versions without importing the packages; missing packages are left out."""
    packages = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "python": platform.python_version(),
        "packages": packages,
        "source": _source_hash(),
        "executable": sys.executable,
    }


def list_gpus() -> list[tuple[str, int, int]]:
    """Return (name, free bytes, total bytes) of each GPU that torch can use. Importing torch takes seconds."""
    gpus = []
    with suppress(ImportError, RuntimeError):  # no torch, or an incompatible driver
        import torch

        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            gpus.append((torch.cuda.get_device_name(number), free, total))
    return gpus


def reply_to_token(path: str, mark: str, reply: str) -> AccessDict:
    """Read the token in the folder `mark` below a folder or URI, and write it to the file `reply` next to it."""
    try:
        return _reply_at_uri(path, mark, reply) if "://" in path else _reply_in_folder(Path(path), mark, reply)
    except ImportError:
        return {"token": "", "error": "fedray is not installed there", "free_bytes": None}
    except Exception as error:  # an unknown error of a library there must not end the probe of other nodes
        return {"token": "", "error": _first_line(error), "free_bytes": None}


def _reply_in_folder(folder: Path, mark: str, reply: str) -> AccessDict:
    free_bytes = shutil.disk_usage(_nearest_folder(folder)).free
    try:
        token = (folder / mark / "token").read_text()
        (folder / mark / reply).write_text(token)
    except FileNotFoundError:
        token = ""
    return {"token": token, "error": "", "free_bytes": free_bytes}


def _reply_at_uri(uri: str, mark: str, reply: str) -> AccessDict:
    from fedray.results.remote import Remote

    folder = Remote(uri, mark)
    if "token" not in folder.list_files():
        return {"token": "", "error": "", "free_bytes": None}
    with tempfile.TemporaryDirectory() as temp_folder:
        copy = Path(temp_folder) / "token"
        folder.download("token", copy, 0)
        folder.upload(copy, reply)
        return {"token": copy.read_text(), "error": "", "free_bytes": None}


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error) or type(error).__name__).partition("\n")[0]


def _temp_folder() -> str:
    """Return the folder to which Ray spills objects, from the command line of this worker process."""
    options = [word.removeprefix("--temp-dir=") for word in sys.argv if word.startswith("--temp-dir=")]
    return options[0] if options else tempfile.gettempdir()


def _nearest_folder(path: Path) -> Path:
    """Return the folder itself, or its first parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _memory() -> tuple[int, int] | None:
    """Return total and free bytes, within the limit of the container; None without /proc."""
    try:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        sizes = {line[0]: 1024 * int(line[1]) for line in lines}
    except OSError:
        return None
    total, free = sizes["MemTotal:"], sizes["MemAvailable:"]
    with suppress(OSError, ValueError):  # the limit is "max" if there is none
        group = Path("/sys/fs/cgroup")
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        total, free = min(total, limit), max(0, min(free, limit - used))
    return total, free


def _has_bfloat16() -> bool | None:
    """Whether the processor has bfloat16 instructions; None without /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}) if flags else None


def _source_hash() -> str:
    """Return a hash of fedray's code, which may differ between editable installations of one version."""
    package = find_spec("fedray")
    if package is None or not package.submodule_search_locations:
        return ""
    root = Path(package.submodule_search_locations[0])
    texts = [(path.relative_to(root).as_posix(), path.read_bytes()) for path in sorted(root.rglob("*.py"))]
    return hashlib.sha256(repr(texts).encode()).hexdigest()[:8]


def _file_size(text: str) -> int | None:
    """Return the bytes of a file, of the files of a pattern or of a folder's files; None if it is missing.

    Relative paths start at the working folder of Ray's processes, as they do for the processes of a run.
    """
    kind, colon, path = text.partition(":")
    if colon and kind == "torchvision":
        folder = Path(os.environ.get("FEDRAY_DATA", "~/.cache/fedray/data")).expanduser() / path
        return 0 if folder.is_dir() else None
    path = path if colon and kind in ("parquet", "folder", "file", "local-dir") else text
    matches = [Path(name) for name in glob.glob(str(Path(path).expanduser()))]  # noqa: PTH207  an absolute pattern
    return sum(map(_size, matches)) if matches else None


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(child.stat().st_size if child.is_file() else 1 for child in path.iterdir())
    return path.stat().st_size
