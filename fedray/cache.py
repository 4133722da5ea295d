"""The cache folder on this machine: teacher outputs, decoded images, mirrors of remote results."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$FEDRAY_CACHE, or `fedray` in the user's own cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "fedray"
    return Path(os.environ.get("FEDRAY_CACHE") or default).expanduser()
