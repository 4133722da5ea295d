"""Where results are: in a folder; or under a URI, of which folders on this machine are mirrors.

$FEDRAY_CACHE/mirrors/HASH/   what the URI held when it was last looked at, or a run while this machine makes it
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from filelock import FileLock

from fedray.cache import cache_folder
from fedray.errors import RunError, SpecError
from fedray.results.remote import FileStats, Remote

DONE_FILE = "DONE"
"""The file in the folder of a spec that says that all its runs have come to their end."""

UPLOADED_LAST = ("state.json", "model.safetensors")
"""What says that a checkpoint is whole, and that a run is: uploaded after all that it speaks of."""


@dataclass(frozen=True)
class Storage:
    """A plain folder of results: there is nothing to copy."""

    root: Path
    name: str = ""  # of the folder below the root

    is_shared: ClassVar[bool] = False
    """Whether every node has it; nodes may share a folder, or not."""

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def place(self) -> str:
        """An absolute path or a URI."""
        return str(self.folder.absolute())

    def __str__(self) -> str:
        return str(self.folder)

    def below(self, name: str) -> "Storage":
        """A folder in the folder."""
        return replace(self, name=f"{self.name}/{name}".lstrip("/"))

    def working_copy(self) -> "Storage":
        """For a process that makes a run in the folder: it pulls, makes and pushes, and leaves."""
        return self

    def pull(self, without: str = "") -> None:
        """Make the folder what is under the URI, but for files whose paths match `without`."""

    def push(self) -> None:
        """Make the URI hold what is in the folder, where it is a workplace."""

    def leave(self) -> None:
        """What is to be kept has been pushed."""

    def write(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{name}.partial"
        partial.write_bytes(text.encode())
        partial.replace(self.folder / name)

    def erase(self, name: str) -> None:
        """Delete a file, if it is there."""
        with suppress(OSError):  # where the folder itself is wrong, whoever writes into it says so
            (self.folder / name).unlink()


@dataclass(frozen=True)
class RemoteMirror(Storage):
    """A folder to look at what a URI holds. A file and its copy have size and time in common."""

    uri: str = ""

    is_shared: ClassVar[bool] = True

    @property
    def remote(self) -> Remote:
        return Remote(self.uri, self.name)

    @property
    def place(self) -> str:
        return str(self.remote)

    def __str__(self) -> str:
        return str(self.remote)

    def working_copy(self) -> Storage:
        """A mirror of its own, that nobody else looks at."""
        return WorkingCopy(self.root.with_name(_hash(self.place, "run")), self.name, self.uri)

    def pull(self, without: str = "") -> None:
        """Raises SpecError where it cannot."""
        with self.remote.reached(SpecError), self._lock():
            here, there = self._here(), self._there()
            for name in here.keys() - there.keys():
                (self.folder / name).unlink()
            _each(lambda name: self._bring(name, there), [n for n in _new(there, here) if not fnmatch(n, without)])

    def write(self, name: str, text: str) -> None:
        """Here and there. Raises SpecError where it cannot."""
        with self.remote.reached(SpecError), self._lock():
            super().write(name, text)
            self.remote.upload(self.folder / name, name)

    def erase(self, name: str) -> None:
        """Here and there. Raises SpecError where it cannot."""
        with self.remote.reached(SpecError), self._lock():
            super().erase(name)
            if name in self._there():
                self.remote.delete(name)

    def _bring(self, name: str, there: FileStats) -> None:
        with suppress(FileNotFoundError):  # gone since it was listed: somebody is making the run
            self.remote.download(name, self.folder / name, there[name][1])

    def _here(self) -> FileStats:
        facts: FileStats = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            with suppress(FileNotFoundError):  # gone since it was listed: the run goes on meanwhile
                if _travels(name) and path.is_file():
                    stat = path.stat()
                    facts[name] = stat.st_size, stat.st_mtime_ns
        return facts

    def _there(self) -> FileStats:
        return {name: facts for name, facts in self.remote.facts().items() if _travels(name)}

    def _lock(self) -> FileLock:
        """Several commands may look at once."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".lock")


class WorkingCopy(RemoteMirror):
    """A folder where a run is made; the URI has its last whole state."""

    def push(self) -> None:
        """Killed at any moment, there is one whole checkpoint. Raises RunError where it cannot."""
        with self.remote.reached(RunError):
            here, there = self._here(), self._there()
            changed = sorted(_new(here, there), key=_turn)
            for _, names in groupby(changed, key=_turn):
                _each(lambda name: self.remote.upload(self.folder / name, name), names)
            _each(self.remote.delete, {self._outermost(name) for name in there.keys() - here.keys()})
            now = self.remote.facts() if changed else {}
            for name in changed:
                os.utime(self.folder / name, ns=(now[name][1], now[name][1]))

    def leave(self) -> None:
        """Delete the mirror."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _outermost(self, gone: str) -> str:
        """The file, or the outermost folder that is gone with it."""
        folder, _, _ = gone.rpartition("/")
        return self._outermost(folder) if folder and not (self.folder / folder).exists() else gone


def is_uri(results: str | Path) -> bool:
    """Whether it is one, rather than a folder."""
    return "://" in str(results)


def storage_of(results: str | Path) -> Storage:
    """What `--results` says."""
    if not is_uri(results):
        return Storage(Path(results))
    uri = str(results).rstrip("/")
    return RemoteMirror(cache_folder() / "mirrors" / _hash(uri), uri=uri)


def _travels(name: str) -> bool:
    """Neither a lock, nor half written, nor Tune's, which brings its own there."""
    *folders, file = name.split("/")
    inside = any(folder == "tune" or folder.startswith("partial-") for folder in folders)
    return not (inside or file.endswith((".lock", ".partial", ".writable")))


def _new(here: FileStats, there: FileStats) -> list[str]:
    return [name for name in here if here[name] != there.get(name)]


def _turn(name: str) -> int:
    file = Path(name).name
    return UPLOADED_LAST.index(file) + 1 if file in UPLOADED_LAST else 0


def _each(function: Callable[[str], None], names: Iterable[str]) -> None:
    """Of all names, several at once."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(function, names))


def _hash(*texts: str) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()[:16]
