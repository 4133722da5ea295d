"""The cache folder: which variable decides it, and users without a home."""

import pwd
from pathlib import Path

import pytest

from fedray.cache import cache_folder, make_cache_folder
from fedray.errors import SpecError


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without HOME and without an entry in the user database, as in a container with --user 12345."""

    def unknown(_uid: int) -> None:
        raise KeyError

    for name in ("HOME", "FEDRAY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("no_home")
def test_no_home_is_a_spec_error_unless_a_variable_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="set HOME, or FEDRAY_CACHE"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/var/cache/fedray")
    monkeypatch.setenv("FEDRAY_CACHE", "/scratch")
    assert cache_folder() == Path("/scratch")
    monkeypatch.setenv("FEDRAY_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(SpecError, match="set HOME, or FEDRAY_CACHE"):
        cache_folder()


def test_folder_below_a_file_is_a_spec_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match=r"cannot be created .Not a directory.; set FEDRAY_CACHE"):
        make_cache_folder(tmp_path / "file" / "cache")
    make_cache_folder(tmp_path / "new" / "cache")
    assert (tmp_path / "new" / "cache").is_dir()
