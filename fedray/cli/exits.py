"""How a command ends: exit codes, the sentence on stderr, and SIGTERM.

Exit codes: 0 finished, or stopped by SIGTERM; 1 a run failed, or `fedray doctor` found an error; 2 the spec
cannot be used; 130 Ctrl-C.
"""

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn


def fail(message: str, code: int) -> NoReturn:
    """Print `fedray: message` to stderr and exit with `code`."""
    print(f"fedray: {message}", file=sys.stderr)
    raise SystemExit(code)


def resume_hint() -> str:
    """Return a sentence with the command that resumes this one."""
    command = ["fedray", *(argument for argument in sys.argv[1:] if argument != "--no-resume")]
    return f"Every finished round is saved; resume with: {shlex.join(command)}"


@dataclass
class StopRequest:
    """The exit code that SIGTERM or Ctrl-C asks for, None before either. The command ends itself then."""

    code: int | None = None


stop_request = StopRequest()


@contextmanager
def exit_on_stop() -> Iterator["SigtermHandler"]:
    """Exit with 130 after Ctrl-C. After SIGTERM print the command that resumes and leave the block normally."""
    with SigtermHandler() as sigterm:
        try:
            yield sigterm
        except KeyboardInterrupt:
            if not sigterm.received:
                stop_request.code = 130
                fail(f"stopped. {resume_hint()}", 130)
            print(f"fedray: stopped by SIGTERM. {resume_hint()}", file=sys.stderr)


class SigtermHandler:
    """Turns the first SIGTERM into a KeyboardInterrupt and records it. Later ones are ignored.

    A scheduler sends SIGTERM before it takes the machine away: the run must stop and save, as after Ctrl-C, and the
    command exit with 0, since the job is to be requeued.
    """

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "SigtermHandler":
        self._is_installed = threading.current_thread() is threading.main_thread()  # Python refuses in other threads
        self._previous = signal.signal(signal.SIGTERM, self._handle) if self._is_installed else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_installed:
            signal.signal(signal.SIGTERM, self._previous)

    def _handle(self, *_: object) -> None:
        """Raises KeyboardInterrupt itself: Ray swallows subclasses and other exceptions."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.received = True
        stop_request.code = 0
        raise KeyboardInterrupt
