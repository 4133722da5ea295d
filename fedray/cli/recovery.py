"""Recovery of a command whose Ray is lost: the command starts again in its process, and resumes from checkpoints.

The main thread may wait for a call that never returns. `exec` replaces the program in any state.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import NoReturn

from fedray.backends.ray.cluster import stop_ray
from fedray.backends.ray.supervision import supervision
from fedray.cli.exits import resume_hint, stop_request
from fedray.errors import RayLostError

MAX_RESTARTS = 3
"""Restarts of a command, each within RESET_S of the previous one."""
RESET_S = 600.0
"""Seconds without a loss after which restarts are counted from one again."""
RESTARTS_VARIABLE = "FEDRAY_RESTARTS"

STOP_GRACE_S = 1.0
"""Seconds to wait for a SIGTERM to this process: a batch system also sends it to Ray's processes."""
STOP_TIMEOUT_S = 45.0
"""Seconds within which the main thread must end after SIGTERM or Ctrl-C if Ray is lost."""

_started_at = time.monotonic()
_recovering = Lock()


def is_restarted() -> bool:
    """Whether this process is a restart of its command, which resumes the unfinished runs."""
    return _restarts() > 0


@contextmanager
def recovery() -> Iterator[None]:
    """Run a command: start it again whenever Ray is lost, and stop Ray within a limited time at the end.

    The block ends with SystemExit, except after an unexpected error.
    """
    supervision.handler = _recover
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if code in (0, None):
            stop_request.code = 0  # the work is done: a later loss is ignored
        elif stop_request.code is None:
            _recover_if_lost()
        if not stop_ray():
            _exit(code if isinstance(code, int) else 1)
        raise


def _recover_if_lost() -> None:
    try:
        supervision.check()
    except RayLostError as error:
        _recover(error)


def _recover(error: RayLostError) -> NoReturn:
    """Start the command again, or end it with a one-line error."""
    with _recovering:  # the main thread and the watchdog may both detect a loss; the lock is never released
        time.sleep(STOP_GRACE_S)
        if stop_request.code is not None:
            time.sleep(STOP_TIMEOUT_S)
            _exit(stop_request.code)
        restarts = _restarts() + 1 if time.monotonic() - _started_at < RESET_S else 1
        if error.can_restart and restarts <= MAX_RESTARTS and _can_read_spec_again():
            _restart(error, restarts)
        _print(f"{error}.\n{resume_hint()}")
        _exit(1)


def _restart(error: RayLostError, restarts: int) -> None:
    _print(f"{error}; the command starts it again and resumes ({restarts} of {MAX_RESTARTS}).")
    _flush()
    os.environ[RESTARTS_VARIABLE] = str(restarts)
    with suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _restarts() -> int:
    text = os.environ.get(RESTARTS_VARIABLE, "")
    return int(text) if text.isdecimal() else 0


def _can_read_spec_again() -> bool:
    """Whether no argument is a pipe, such as `<(...)` of a shell or /dev/stdin, which has been read."""
    return not any(path.exists() and not path.is_file() and not path.is_dir() for path in map(Path, sys.argv[1:]))


def _print(message: str) -> None:
    """Print to stderr without Python's buffers and locks, which the main thread may hold."""
    terminal = "\x1b[?25h\n" if os.isatty(2) else ""  # show the cursor that a live display has hidden
    os.write(2, f"{terminal}fedray: {message}\n".encode(errors="replace"))


def _flush() -> None:
    """Write buffered output. Takes at most a second: the main thread may wait for the reader of a pipe."""
    if sys.__stdout__ is not None:
        thread = Thread(target=sys.__stdout__.flush, daemon=True)
        thread.start()
        thread.join(1.0)


def _exit(code: int) -> NoReturn:
    """End the process at once, without the exit handlers that Ray has registered."""
    _flush()
    os._exit(code)
