"""Locks between processes, on file systems with and without locks."""

import errno
import fcntl
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from filelock import Timeout

from fedray.errors import SpecError
from fedray.locks import CACHE_REMEDY, RESULTS_REMEDY, locked
from fedray.results.run_folder import RunFolder
from fedray.results.storage import storage_of
from fedray.teachers.cache import TeacherCache


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose flock fails, as on NFS without its lock service."""

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(request.param, "as on NFS without its lock service")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize(
    ("take", "remedy"),
    [
        (lambda folder: RunFolder(folder).lock(), "file:///PATH"),
        (lambda folder: TeacherCache(folder).entry({}, 1).lock(), "set FEDRAY_CACHE"),
    ],
)
def test_file_system_without_locks_is_a_spec_error(
    tmp_path: Path, take: Callable[[Path], AbstractContextManager[None]], remedy: str
) -> None:
    with pytest.raises(SpecError, match="the file system has no file locks") as caught, take(tmp_path):
        pytest.fail("the lock was taken")
    assert remedy in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.usefixtures("no_locks")
def test_results_under_a_uri_lock_in_the_cache_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"has no file locks.*set FEDRAY_CACHE"):
        storage_of(tmp_path.as_uri()).pull()


@pytest.mark.parametrize("name", ["folder", "loop", "file/.lock"])
def test_lock_file_that_cannot_be_opened_is_a_spec_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SpecError, match="cannot be locked"), locked(tmp_path / name, 0, RESULTS_REMEDY):
        pytest.fail("the lock was taken")


def test_second_holder_waits_and_gets_a_timeout(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", 0, CACHE_REMEDY), pytest.raises(Timeout):  # noqa: SIM117
        with locked(tmp_path / "lock", 0.01, CACHE_REMEDY):
            pytest.fail("the lock was taken twice")
    with locked(tmp_path / "lock", 0, CACHE_REMEDY):
        pass
