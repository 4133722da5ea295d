"""Supervision of the Ray that this process started or joined: without the raylet or GCS, calls never return."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeAlias

from fedray.errors import RayLostError

if TYPE_CHECKING:
    import psutil

    from fedray.backends.ray.watchdog import Watchdog

LossHandler: TypeAlias = Callable[[RayLostError], None]
"""Ends or restarts the program. It is called in any thread, while the main thread may wait for Ray."""

NODE_PROCESSES = ("gcs_server", "raylet")
SHUTDOWN_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 5.0


class Supervision:
    """Watches Ray from `start` to `stop`."""

    def __init__(self) -> None:
        self._watchdog: Watchdog | None = None
        self._session_folder: Path | None = None
        self._error: RayLostError | None = None
        self.handler: LossHandler | None = None
        """Called when Ray is lost; without one, `check` raises the error."""

    def start(self, session_folder: Path | None) -> None:
        """Watch the Ray to which this process has connected.

        `session_folder` is the folder of a Ray that this process started; None for a cluster that it joined.
        """
        self.watch(_joined_raylet() if session_folder is None else _node_processes(), _node_query(), session_folder)

    def watch(
        self, processes: "Mapping[str, psutil.Process]", query: Callable[[], str], session_folder: Path | None
    ) -> None:
        """Watch processes and a query as `Watchdog` does. A loss kills the processes that write to the folder."""
        from fedray.backends.ray.watchdog import Watchdog

        self._session_folder, self._error = session_folder, None
        self._watchdog = Watchdog(processes, query, self._on_loss)

    def stop(self, shutdown: Callable[[], object]) -> bool:
        """Stop watching, call `shutdown` and kill the processes that it leaves. Return whether it returned in time."""
        if self._watchdog is not None:
            self._watchdog.stop()
        self._watchdog = self._error = None
        thread = Thread(target=shutdown, daemon=True)
        thread.start()
        thread.join(SHUTDOWN_TIMEOUT_S)
        self._kill_processes()
        thread.join(KILL_TIMEOUT_S)
        return not thread.is_alive()

    @property
    def is_lost(self) -> bool:
        """Whether Ray was lost and has not been stopped since."""
        return self._error is not None

    def check(self) -> None:
        """Raises RayLostError if Ray is lost."""
        if self._error is None and self._watchdog is not None and (loss := self._watchdog.loss()):
            self._error = self._as_error(loss)
        if self._error is not None:
            raise self._error

    def report(self, error: RayLostError) -> None:
        """End or restart the program after a loss that the caller detected. Raises the error if it has no handler."""
        self._error = error
        self._kill_processes()
        if self.handler is None:
            raise error
        self.handler(error)

    def _on_loss(self, loss: str) -> None:
        self._error = self._as_error(loss)
        self._kill_processes()
        if self.handler is not None:
            self.handler(self._error)

    def _as_error(self, loss: str) -> RayLostError:
        return RayLostError(f"Ray was lost: {loss}", can_restart=self._session_folder is not None)

    def _kill_processes(self) -> None:
        """Kill all processes of the Ray that this process started."""
        import psutil

        if self._session_folder is None:
            return
        end = time.monotonic() + KILL_TIMEOUT_S
        while time.monotonic() < end:
            killed = []
            for process in processes_of(self._session_folder):
                with suppress(psutil.NoSuchProcess):
                    process.kill()  # at once: Ray's agents print the log of a raylet that was killed
                killed.append(process)
            if not killed:
                return
            psutil.wait_procs(killed, timeout=1)


def processes_of(session_folder: Path) -> "Iterator[psutil.Process]":
    """Yield the processes that write to the folder of a Ray session: Ray's own, and the children of actors."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's process, or one that has just ended
            if process.pid != os.getpid() and _writes_into(process, f"{session_folder}/"):
                yield process


def _writes_into(process: "psutil.Process", prefix: str) -> bool:
    return any(
        file.path.startswith(prefix) and (not hasattr(file, "mode") or file.mode != "r")  # only Linux has the mode
        for file in process.open_files()
    )


def _node_processes() -> "dict[str, psutil.Process]":
    """Return the processes of Ray that are children of this one, by name."""
    import psutil

    children = {process.name(): process for process in psutil.Process().children()}
    return {name: children[name] for name in NODE_PROCESSES if name in children}


def _joined_raylet() -> "dict[str, psutil.Process]":
    """Return the raylet of this node of a cluster that was joined, if its process is visible."""
    import psutil

    from fedray.backends.ray.nodes import alive_nodes, this_node

    node = this_node()
    sockets = [each["RayletSocketName"] for each in alive_nodes() if each["NodeID"] == node]
    words = {f"--raylet_socket_name={socket}" for socket in sockets}
    found = [each for each in psutil.process_iter(["name", "cmdline"]) if words & set(each.info["cmdline"] or ())]
    return {"raylet": found[0]} if len(found) == 1 else {}


def _node_query() -> Callable[[], str]:
    """Return a query of Ray's GCS: whether the node of this process is alive."""
    from fedray.backends.ray.nodes import alive_nodes, this_node

    node = this_node()

    def query() -> str:
        is_listed = any(alive["NodeID"] == node for alive in alive_nodes())
        return "" if is_listed else "the node of this machine is dead"

    return query


supervision = Supervision()
"""The supervision of this process, which connects to at most one Ray at a time."""
