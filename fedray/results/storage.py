"""Storage of results: a local folder, or a URI with mirrors in local folders.

$FEDRAY_CACHE/mirrors/HASH/   the contents of the URI at the last pull, or the working copy of a run on this machine
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from fedray.cache import cache_folder, make_cache_folder
from fedray.errors import RunError, SpecError, writing
from fedray.files import remove_stale_partials, replace_text
from fedray.locks import CACHE_REMEDY, locked
from fedray.results.remote import FileStats, Remote

DONE_FILE = "DONE"
"""Marker file in the folder of a spec: all its runs have ended."""

UPLOADED_LAST = ("state.json", "model.safetensors")
"""Files that mark a checkpoint or a run as complete, uploaded after the files that they refer to."""

TRANSFERS = 8
"""Number of files that are copied in parallel."""


@dataclass(frozen=True)
class Storage:
    """A plain folder of results. Pull, push and release do nothing."""

    root: Path
    name: str = ""  # of the folder below the root

    is_shared: ClassVar[bool] = False
    """Whether every node can read it. A plain folder may be local to one node."""

    @property
    def folder(self) -> Path:
        """The local folder that holds the files, or a mirror of them."""
        return self.root / self.name

    @property
    def location(self) -> str:
        """The absolute path or the URI of the folder."""
        return str(self.folder.absolute())

    def __str__(self) -> str:
        return str(self.folder)

    def below(self, name: str) -> "Storage":
        """Return the storage of a folder below this one."""
        return replace(self, name=f"{self.name}/{name}".lstrip("/"))

    def working_copy(self) -> "Storage":
        """Return the storage for a process that executes a run: pull, run, push, release."""
        return self

    def pull(self, exclude: str = "") -> None:
        """Make the folder equal to the URI, except for files whose paths match the pattern `exclude`."""

    def push(self) -> None:
        """Make the URI equal to the folder. A no-op unless this is a working copy."""

    def release(self) -> None:
        """Delete the working copy. Call it after the last push."""

    def write(self, name: str, text: str) -> None:
        """Write a small file, complete or not at all."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self.folder / name, text)

    def erase(self, name: str) -> None:
        """Delete a file if it exists."""
        with suppress(OSError):  # if the folder itself cannot be used, the next write raises
            (self.folder / name).unlink()


@dataclass(frozen=True)
class RemoteMirror(Storage):
    """A local mirror for reading the contents of a URI. Files are compared by size and modification time."""

    uri: str = ""

    is_shared: ClassVar[bool] = True

    @property
    def remote(self) -> Remote:
        """The folder under the URI."""
        return Remote(self.uri, self.name)

    @property
    def location(self) -> str:
        return str(self.remote)

    def __str__(self) -> str:
        return str(self.remote)

    def working_copy(self) -> Storage:
        """Return a separate mirror that only one run uses."""
        return WorkingCopy(self.root.with_name(_hash(self.location, "run")), self.name, self.uri)

    def pull(self, exclude: str = "") -> None:
        """Download changed files and delete those that the URI lacks. Raises SpecError if the URI cannot be reached."""
        with self._lock(), self.remote.errors_as(SpecError):
            remove_stale_partials(self.folder)
            local, remote = self._local_files(), self._remote_files()
            for name in local.keys() - remote.keys():
                (self.folder / name).unlink()
            changed = [name for name in _changed(remote, local) if not fnmatch(name, exclude)]
            _in_parallel(lambda name: self._download(name, remote[name][1]), changed)

    def write(self, name: str, text: str) -> None:
        """Write a file locally and to the URI. Raises SpecError if the URI cannot be reached."""
        with self._lock(), self.remote.errors_as(SpecError):
            super().write(name, text)
            self.remote.upload(self.folder / name, name)

    def erase(self, name: str) -> None:
        """Delete a file locally and at the URI. Raises SpecError if the URI cannot be reached."""
        with self._lock(), self.remote.errors_as(SpecError):
            super().erase(name)
            self.remote.delete(name)

    def _download(self, name: str, mtime_ns: int) -> None:
        with suppress(FileNotFoundError):  # deleted since the listing: another process executes the run
            self.remote.download(name, self.folder / name, mtime_ns)

    def _local_files(self) -> FileStats:
        stats: FileStats = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            with suppress(FileNotFoundError):  # deleted since the listing: the run is still in progress
                if _is_synced(name) and path.is_file():
                    stat = path.stat()
                    stats[name] = stat.st_size, stat.st_mtime_ns
        return stats

    def _remote_files(self) -> FileStats:
        return {name: stats for name, stats in self.remote.list_files().items() if _is_synced(name)}

    def _lock(self) -> AbstractContextManager[None]:
        """Return the lock that serializes commands on the same mirror."""
        make_cache_folder(self.root)
        return locked(self.root / ".lock", -1, CACHE_REMEDY)


class WorkingCopy(RemoteMirror):
    """The local folder in which a run executes. The URI holds its last complete state."""

    def push(self) -> None:
        """Upload changed files and delete those that are gone. Raises RunError if the URI cannot be reached.

        If the process is killed at any point, the URI still holds one complete checkpoint: markers are uploaded last,
        and files are deleted after that.
        """
        with self.remote.errors_as(RunError):
            local, remote = self._local_files(), self._remote_files()
            changed = sorted(_changed(local, remote), key=_upload_stage)
            for _, names in groupby(changed, key=_upload_stage):
                _in_parallel(lambda name: self.remote.upload(self.folder / name, name), names)
            _in_parallel(self.remote.delete, {self._topmost_deleted(name) for name in remote.keys() - local.keys()})
            uploaded = self.remote.list_files() if changed else {}
            for name in changed:
                mtime_ns = uploaded[name][1]
                os.utime(self.folder / name, ns=(mtime_ns, mtime_ns))

    def release(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def _topmost_deleted(self, name: str) -> str:
        """Return the deleted file, or the topmost deleted folder that contained it."""
        folder, _, _ = name.rpartition("/")
        return self._topmost_deleted(folder) if folder and not (self.folder / folder).exists() else name


def is_uri(results: str | Path) -> bool:
    """Whether a value of `--results` is a URI, not a folder."""
    return "://" in str(results)


def storage_of(results: str | Path) -> Storage:
    """Return the storage that a value of `--results` names. Raises SpecError for one that is empty or no UTF-8."""
    if not str(results).strip():
        raise SpecError("the folder of results is an empty text; name a folder or a URI.")
    if any(0xD800 <= ord(char) < 0xE000 for char in str(results)):
        raise SpecError(f"the folder of results {str(results)!a} is no UTF-8 text; choose another name.")
    if not is_uri(results):
        return Storage(Path(results))
    uri = str(results).rstrip("/")
    return RemoteMirror(cache_folder() / "mirrors" / _hash(uri), uri=uri)


def _is_synced(name: str) -> bool:
    """Whether a file is copied: not locks, partial files and probes, nor the files that Tune copies itself."""
    *folders, file = name.split("/")
    is_excluded = any(folder == "tune" or folder.startswith("partial-") for folder in folders)
    return not (is_excluded or file.endswith((".lock", ".partial", ".writable")))


def _changed(source: FileStats, target: FileStats) -> list[str]:
    """Return the names of files that the target lacks or holds in another version."""
    return [name for name in source if source[name] != target.get(name)]


def _upload_stage(name: str) -> int:
    """Return 0 for plain files, and for markers their position in UPLOADED_LAST, from 1."""
    file = Path(name).name
    return UPLOADED_LAST.index(file) + 1 if file in UPLOADED_LAST else 0


def _in_parallel(function: Callable[[str], None], names: Iterable[str]) -> None:
    """Call the function with each name, several at a time. Raises the first error."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(function, names))


def _hash(*texts: str) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()[:16]
