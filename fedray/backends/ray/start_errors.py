"""Messages for the errors that keep Ray from starting, or from joining a cluster."""

import errno
import os
import sys

from fedray.errors import RunError, SpecError

TEMP_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
"""Variables that name the parent of Ray's temporary folder, the first one that is set."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
MIN_OPEN_FILES = 64
"""With a lower limit, Ray's processes exit at start, and `ray.init` times out."""
OPEN_FILES = (errno.EMFILE, errno.ENFILE)


def start_error(error: Exception, address: str) -> SpecError | RunError:
    """Return the error of `ray.init` as a one-line error with its cause: a SpecError if the user can fix it."""
    text = str(error).strip()
    if address != "local":
        return _joining_error(error, text, address)
    if (limit := open_files_limit()) < MIN_OPEN_FILES:
        return SpecError(
            f"Ray did not start; it needs {MIN_OPEN_FILES} open files, and the limit is {limit}: ulimit -n 4096."
        )
    if isinstance(error, OSError) and (found := _system_error(error, text)):
        return found
    if "timed out" in text.lower() or isinstance(error, TimeoutError):
        return RunError(f"Ray did not start in time ({_first_sentence(text)}); is the machine overloaded?")
    return RunError(f"Ray did not start ({type(error).__name__}: {_first_sentence(text)}).")


def open_files_limit() -> int:
    """Return the number of files that a process may have open."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def temp_setting() -> str:
    """Return `TMPDIR=/scratch/job`, the setting that decides Ray's temporary folder, or the folder `/tmp`."""
    return next((f"{name}={os.environ[name]}" for name in TEMP_VARIABLES if os.environ.get(name)), "/tmp")


def _joining_error(error: Exception, text: str, address: str) -> SpecError:
    reason = _first_sentence(text)
    if "ersion mismatch" in text:
        return SpecError(f"the Ray cluster at RAY_ADDRESS={address} has another version ({' '.join(text.split())}).")
    if isinstance(error, ConnectionError | TimeoutError):
        return SpecError(f"the Ray cluster at RAY_ADDRESS={address} refuses the connection ({reason}).")
    return SpecError(f"the Ray cluster at RAY_ADDRESS={address} cannot be joined ({type(error).__name__}: {reason}).")


def _system_error(error: OSError, text: str) -> SpecError | None:
    """Return the one-line error for an error of the operating system; None if it has none."""
    if "AF_UNIX" in text:
        return SpecError(
            f"the path of Ray's temporary folder ({temp_setting()}) is too long for its sockets; "
            "set RAY_TMPDIR to a folder with a short path, such as /tmp."
        )
    if error.errno in OPEN_FILES:
        return SpecError("Ray did not start, because too many files are open; raise the limit with ulimit -n 4096.")
    if error.errno in FULL_DISK:
        return SpecError(
            f"Ray did not start, because there is no space left for its temporary folder ({temp_setting()}); "
            "free some, or set RAY_TMPDIR to another folder."
        )
    if error.filename is not None:
        return SpecError(
            f"Ray did not start, because '{error.filename}' cannot be used ({error.strerror}); its temporary folder "
            f"is in {temp_setting()}, and RAY_TMPDIR can name another one."
        )
    return None


def _first_sentence(text: str) -> str:
    """Return the first line without its full stop."""
    return (text.splitlines() or ["no reason given"])[0].rstrip(". ")
