"""Results under a URI (s3://, gs://, hdfs://, file://): copied to folders on this machine, and back.

$FEDRAY_CACHE/mirrors/HASH/   what a URI held when it was last looked at, or a run while this machine makes it
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import quote

from filelock import FileLock

from fedray.errors import RunError, SpecError
from fedray.teachers.bank import cache_folder

WEIGHTS = "*.safetensors"
LAST = ("state.json", "model.safetensors")
"""What says of a checkpoint, and then of a run, that it is whole: uploaded after all that it speaks of."""
WHOLE_OR_ABSENT = ("s3", "gcs", "abfs")
"""Filesystems that show a file once all of it is there. On others it is given its name at the end."""

Facts: TypeAlias = dict[str, tuple[int, int]]
"""Of each file its size and when it was changed. A file and its copy have both in common."""


def is_uri(results: str | Path) -> bool:
    """Rather than a folder."""
    return "://" in str(results)


@dataclass(frozen=True)
class Storage:
    """A folder of results: a plain one, or a mirror of what a URI holds."""

    root: Path
    uri: str = ""
    name: str = ""  # of the folder, below both

    @classmethod
    def of(cls, results: str | Path) -> "Storage":
        """Where results are, or will be."""
        if not is_uri(results):
            return cls(Path(results))
        uri = str(results).rstrip("/")
        return cls(cache_folder() / "mirrors" / _hash(uri), uri)

    def below(self, name: str) -> "Storage":
        return replace(self, name=f"{self.name}/{name}".lstrip("/"))

    def workplace(self) -> "Workplace":
        """For one process that makes a run: where there is a URI, a mirror that nobody else looks at."""
        return Workplace(self.root.with_name(_hash(self.uri, self.name)) if self.uri else self.root, self.uri, self.name)

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def place(self) -> str:
        """What a person knows it by."""
        uri, mark, options = self.uri.partition("?")
        return f"{uri}/{quote(self.name)}".rstrip("/") + mark + options if uri else str(self.folder)

    def pull(self, skip: str = "") -> None:
        """Make the folder what the URI holds, without files that match `skip`. Raises SpecError where it cannot."""
        if self.uri:
            with self._explained(SpecError), self._locked():
                ours, theirs = self._ours(), self._theirs()
                for name in ours.keys() - theirs.keys():
                    (self.folder / name).unlink()
                changed = [name for name in theirs if theirs[name] != ours.get(name) and not fnmatch(name, skip)]
                _each(lambda name: self._download(name, theirs[name][1]), changed)

    def write(self, name: str, text: str) -> None:
        """Write a small file, to the URI as well. Raises SpecError where that cannot be."""
        if not self.uri:
            self._write(name, text)
            return
        with self._explained(SpecError), self._locked():
            self._write(name, text)
            self._upload(name)

    def _write(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(self.folder / name)

    def _ours(self) -> Facts:
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")]
        files = {name: self.folder / name for name in names if _travels(name) and (self.folder / name).is_file()}
        return {name: (file.stat().st_size, file.stat().st_mtime_ns) for name, file in files.items()}

    def _theirs(self) -> Facts:
        from pyarrow.fs import FileSelector

        filesystem, path = self._there()
        found = filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        files = {info.path.removeprefix(path).lstrip("/"): info for info in found if info.is_file}
        return {name: (info.size, info.mtime_ns) for name, info in files.items() if _travels(name)}

    def _there(self, name: str = "") -> tuple[Any, str]:
        filesystem, path = _open(self.uri)
        return filesystem, "/".join(part for part in (path, self.name, name) if part)

    def _download(self, name: str, changed: int) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        with suppress(FileNotFoundError):  # deleted since it was listed
            _copy(*self._there(name), _local(), str(partial))
            os.utime(partial, ns=(changed, changed))
            partial.replace(target)

    def _upload(self, name: str) -> None:
        filesystem, path = self._there(name)
        if filesystem.type_name in WHOLE_OR_ABSENT:
            _copy(_local(), str(self.folder / name), filesystem, path)
            return
        filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
        _copy(_local(), str(self.folder / name), filesystem, f"{path}.partial")
        filesystem.move(f"{path}.partial", path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Several commands may look at once."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".mirror.lock"):
            yield

    @contextmanager
    def _explained(self, kind: type[SpecError | RunError]) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise kind(f"the results at '{self.place}' cannot be reached ({reason}).") from error


class Workplace(Storage):
    """The folder of a run, where it is made. It holds all that the URI holds."""

    def push(self) -> None:
        """Make the URI hold what the folder does. Killed at any moment, one whole checkpoint stays there.

        Raises RunError where it cannot.
        """
        if self.uri:
            with self._explained(RunError):
                ours, theirs = self._ours(), self._theirs()
                changed = [name for name in ours if ours[name] != theirs.get(name)]
                for _, names in groupby(sorted(changed, key=_turn), _turn):
                    _each(self._upload, names)
                self._delete(theirs.keys() - ours.keys())
                self._note(changed)

    def leave(self) -> None:
        """Delete the mirror: what is to be kept has been pushed."""
        if self.uri:
            shutil.rmtree(self.root, ignore_errors=True)

    def _delete(self, names: Iterable[str]) -> None:
        """Folders that are gone as a whole, or they would stay there empty."""
        filesystem, _ = self._there()
        paths = {name: [*map(str, reversed(PurePosixPath(name).parents)), name][1:] for name in names}
        for gone in {next(p for p in path if not (self.folder / p).exists()) for path in paths.values()}:
            (filesystem.delete_file if gone in paths else filesystem.delete_dir)(self._there(gone)[1])

    def _note(self, names: Iterable[str]) -> None:
        """Give files the time that their copies have."""
        theirs = self._theirs()
        for name in names:
            os.utime(self.folder / name, ns=(theirs[name][1],) * 2)


def _travels(name: str) -> bool:
    """Not locks, nor what is half written, nor what Tune keeps there itself."""
    *folders, file = name.split("/")
    stays = any(folder == "tune" or folder.startswith("partial-") for folder in folders)
    return not (stays or file.endswith((".lock", ".partial", ".writable")))


def _turn(name: str) -> int:
    file = name.rpartition("/")[2]
    return LAST.index(file) + 1 if file in LAST else 0


def _each(function: Callable[[str], None], names: Iterable[str]) -> None:
    """For all of them, several at once."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(function, names))


def _hash(*texts: str) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()[:16]


@cache
def _open(uri: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    filesystem, path = FileSystem.from_uri(uri)
    return filesystem, path.rstrip("/")


@cache
def _local() -> Any:
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem()


def _copy(source: Any, path: str, target: Any, new_path: str) -> None:
    """One file."""
    from pyarrow.fs import copy_files

    copy_files(path, new_path, source, target, use_threads=False)
