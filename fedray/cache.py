"""The cache folder of this machine, for teacher outputs, decoded images and mirrors of remote results."""

import os
from pathlib import Path

from fedray.errors import SpecError


def cache_folder() -> Path:
    """Return $FEDRAY_CACHE, or `fedray` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache).

    Raises SpecError if the user has no home folder, as in a container without an entry for the user.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fedray"
    try:
        return Path(os.environ.get("FEDRAY_CACHE") or default).expanduser()
    except RuntimeError as error:
        raise SpecError("there is no home folder for the cache; set HOME, or FEDRAY_CACHE to a folder.") from error


def make_cache_folder(folder: Path) -> None:
    """Create a folder of the cache. Raises SpecError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"the cache folder '{folder}' cannot be created ({error.strerror}); set FEDRAY_CACHE to a writable folder."
        ) from error
