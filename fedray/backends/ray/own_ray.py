"""Settings of the Ray that fedray starts itself: it listens on the loopback address and requires a token.

Ray reads them from the environment, the first one on import, so `protect` must run before the first `import ray`. If
a program has imported Ray before, Ray's own defaults apply.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for clusters of several machines, on any system. At 0 the node's address is 127.0.0.1, and all
servers of Ray listen there only."""


def cluster_address() -> str:
    """Return the value of RAY_ADDRESS without surrounding spaces, `local` if it is not set or empty."""
    return os.environ.get("RAY_ADDRESS", "").strip() or "local"


def protect() -> None:
    """Set Ray's environment, unless Ray is imported already or RAY_ADDRESS names a cluster."""
    if "ray" in sys.modules or cluster_address() != "local":
        return
    os.environ.setdefault(CLUSTER_SWITCH, "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if lacks_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # of this session; nothing is written to the home folder


def lacks_token(mode: str | None = None) -> bool:
    """Whether Ray has to send a token and there is none, in which case Ray would end the process."""
    return (mode or os.environ.get("RAY_AUTH_MODE")) == "token" and not _has_token()


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    with suppress(RuntimeError, OSError):  # there is no home folder, or it cannot be read
        path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
        return bool(Path(path).read_bytes().strip())
    return False
