"""A folder on any filesystem that pyarrow knows: s3://, gs://, hdfs://, file://."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import quote

from fedray.errors import RunError, SpecError

WHOLE_OR_ABSENT = ("s3", "gcs", "abfs")
"""Filesystems that show a file once all of it is there. On others it is given its name at the end."""

FileStats: TypeAlias = dict[str, tuple[int, int]]
"""Of files, by their paths below a folder: size, and time of the last change in nanoseconds."""


@dataclass(frozen=True)
class Remote:
    """The folder `name` below a URI."""

    uri: str
    name: str

    def __str__(self) -> str:
        uri, mark, options = self.uri.partition("?")
        name = quote(self.name, safe="/=,+")
        return f"{uri}/{name}".rstrip("/") + mark + options

    def facts(self) -> FileStats:
        """All files, those in its folders as well; none where it is not there."""
        from pyarrow.fs import FileSelector

        filesystem, path = self._at()
        found = filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        return {info.path.removeprefix(path).lstrip("/"): (info.size, info.mtime_ns) for info in found if info.is_file}

    def download(self, name: str, target: Path, changed: int) -> None:
        """Bring a file, and give it the time that it has there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        _copy(*self._at(name), _local(), str(partial))
        os.utime(partial, ns=(changed, changed))
        partial.replace(target)

    def upload(self, source: Path, name: str) -> None:
        """Take a file there, whole or not at all."""
        filesystem, path = self._at(name)
        if filesystem.type_name in WHOLE_OR_ABSENT:
            _copy(_local(), str(source), filesystem, path)
            return
        filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
        _copy(_local(), str(source), filesystem, f"{path}.partial")
        filesystem.move(f"{path}.partial", path)

    def delete(self, name: str) -> None:
        """A file, or a folder with all in it."""
        filesystem, path = self._at(name)
        (filesystem.delete_file if filesystem.get_file_info(path).is_file else filesystem.delete_dir)(path)

    @contextmanager
    def reached(self, kind: type[SpecError | RunError]) -> Iterator[None]:
        """Raises `kind` where it cannot be."""
        try:
            yield
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own are among them
            reason = str(error).partition("\n")[0]
            raise kind(f"the results at '{self}' cannot be reached ({reason}).") from error

    def _at(self, name: str = "") -> tuple[Any, str]:
        filesystem, path = _open(self.uri)
        return filesystem, "/".join(part for part in (path, self.name, name) if part)


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
    from pyarrow.fs import copy_files

    copy_files(path, new_path, source, target, use_threads=False)  # with its threads, uploads to S3 may hang
