"""Detection, in a thread, of processes that have ended and of a service that no longer replies."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Event, Thread

import psutil

POLL_INTERVAL_S = 0.1
QUERY_INTERVAL_S = 5.0
REPLY_TIMEOUT_S = 45.0
"""Seconds without a reply after which the service counts as lost. Ray itself ends processes after 60 seconds."""


class Watchdog:
    """Watches processes and queries a service; calls `on_loss` in a thread, with a clause about the first loss."""

    def __init__(
        self,
        processes: Mapping[str, psutil.Process],
        query: Callable[[], str],
        on_loss: Callable[[str], None],
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> None:
        """`processes` by name. `query` returns a clause about a loss, else an empty string; it may raise, or block."""
        self._processes, self._query, self._on_loss = processes, query, on_loss
        self._max_silent_polls = reply_timeout_s / POLL_INTERVAL_S
        self._silent_polls = 0  # polls and not seconds: a process that is suspended does not poll
        self._reply = ""
        self._stopped = Event()
        Thread(target=self._watch, daemon=True, name="fedray-watchdog").start()
        self._querying = Thread(target=self._query_repeatedly, daemon=True, name="fedray-query")
        self._querying.start()

    def stop(self) -> None:
        """Report no further loss. Waits for the end of a query, at most one second."""
        self._stopped.set()
        self._querying.join(1.0)

    def loss(self) -> str:
        """Return a clause about the present loss, or an empty string."""
        for name, process in self._processes.items():
            if not is_alive(process):
                return f"its process {name} has ended (perhaps memory ran out)"
        if self._silent_polls > self._max_silent_polls:
            return f"it has not replied for {self._max_silent_polls * POLL_INTERVAL_S:g} seconds"
        return self._reply

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_INTERVAL_S):
            self._silent_polls += 1
            if loss := self.loss():
                self._on_loss(loss)
                return

    def _query_repeatedly(self) -> None:
        while not self._stopped.wait(QUERY_INTERVAL_S):
            with suppress(Exception):  # counts as no reply
                self._reply = self._query()
                self._silent_polls = 0


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs. A zombie, for whose end its parent has not waited, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
