"""The cache folder of this machine, for teacher outputs, decoded images and mirrors of remote results."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $FEDRAY_CACHE, or `fedray` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fedray"
    return Path(os.environ.get("FEDRAY_CACHE") or default).expanduser()
