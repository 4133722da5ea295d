"""SIGTERM, as a scheduler sends it to a job that it takes the machine from: stop in order, exit with 0."""

import signal
import threading
from typing import Any


class SigtermHandler:
    """Makes the first SIGTERM what Ctrl-C is, and remembers that it was one. Later ones are ignored."""

    def __init__(self) -> None:
        self.reference_params = False

    def __enter__(self) -> "SigtermHandler":
        self._here = threading.current_thread() is threading.main_thread()  # elsewhere Python refuses
        self._before: Any = signal.signal(signal.SIGTERM, self._receive) if self._here else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._here:
            signal.signal(signal.SIGTERM, self._before)

    def _receive(self, *_: object) -> None:
        """A KeyboardInterrupt and no kind of it: Ray lets no other through."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.reference_params = True
        raise KeyboardInterrupt
