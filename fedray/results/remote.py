"""A folder on any filesystem that pyarrow supports: s3://, gs://, hdfs://, file://."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

from fedray.errors import RunError, SpecError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

ATOMIC_WRITES = ("s3", "gcs", "abfs")
"""Filesystems that show a file only once it is complete. On others a file is uploaded as `.partial` and renamed."""

FileStats: TypeAlias = dict[str, tuple[int, int]]
"""Size in bytes and modification time in nanoseconds of files, by path below a folder."""


@dataclass(frozen=True)
class Remote:
    """The folder `name` below a URI."""

    uri: str
    name: str

    def __str__(self) -> str:
        """Return the URI of the folder, with the options of the URI above it."""
        uri, mark, options = self.uri.partition("?")
        name = quote(self.name, safe="/=,+")
        return f"{uri}/{name}".rstrip("/") + mark + options

    def list_files(self) -> FileStats:
        """Return all files in the folder and in those below it; none if the folder does not exist."""
        from pyarrow.fs import FileSelector

        infos = self._filesystem().get_file_info(FileSelector("", recursive=True, allow_not_found=True))
        return {info.path: (info.size, info.mtime_ns) for info in infos if info.is_file}

    def download(self, name: str, target: Path, mtime_ns: int) -> None:
        """Download a file, complete or not at all, and set its modification time."""
        from pyarrow.fs import LocalFileSystem, copy_files

        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        copy_files(name, str(partial), self._filesystem(), LocalFileSystem(), use_threads=False)
        os.utime(partial, ns=(mtime_ns, mtime_ns))
        partial.replace(target)

    def upload(self, source: Path, name: str) -> None:
        """Upload a file, complete or not at all."""
        from pyarrow.fs import LocalFileSystem, copy_files

        filesystem = self._filesystem()
        suffix = "" if filesystem.base_fs.type_name in ATOMIC_WRITES else ".partial"
        if suffix:
            folder, _, _ = f"{filesystem.base_path}{name}".rpartition("/")
            filesystem.base_fs.create_dir(folder, recursive=True)
        # Uploads to S3 may hang with pyarrow's own threads.
        copy_files(str(source), name + suffix, LocalFileSystem(), filesystem, use_threads=False)
        if suffix:
            filesystem.move(name + suffix, name)

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with its contents, if it exists."""
        from pyarrow.fs import FileType

        filesystem = self._filesystem()
        delete = {FileType.File: filesystem.delete_file, FileType.Directory: filesystem.delete_dir}
        if (kind := filesystem.get_file_info(name).type) in delete:
            delete[kind](name)

    @contextmanager
    def errors_as(self, kind: type[SpecError | RunError]) -> Iterator[None]:
        """Raises errors of the filesystem as `kind`, in one sentence."""
        try:
            yield
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are subclasses of these
            reason = str(error).partition("\n")[0]
            raise kind(f"the results at '{self}' cannot be reached ({reason}).") from error

    def _filesystem(self) -> "FileSystem":
        """Return the folder as a filesystem: paths in it are relative to the folder."""
        from pyarrow.fs import SubTreeFileSystem

        filesystem, path = _open(self.uri)
        return SubTreeFileSystem(f"{path}/{self.name}".rstrip("/") or "/", filesystem)


@cache
def _open(uri: str) -> tuple["FileSystem", str]:
    from pyarrow.fs import FileSystem

    filesystem, path = FileSystem.from_uri(uri)
    return filesystem, path.rstrip("/")
