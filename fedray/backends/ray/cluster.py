"""The Ray that fedray runs on: the cluster that RAY_ADDRESS names, or one on this machine."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedray.errors import RunError, SpecError

_started = threading.Event()
"""Whether it was us; one who calls us from Python may have a Ray of their own."""


def start_ray(*, verbose: bool = False) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine. Once is enough.

    Raises SpecError where the cluster cannot be joined, RunError where Ray does not start.
    """
    # What Ray does anyway from 2.55 on, said aloud so that it does not warn.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 lets its own services, and all others, go first
    address = os.environ.get("RAY_ADDRESS", "local")
    import ray

    if ray.is_initialized():
        return
    if _is_host_and_port(address):
        _check_admitted(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    _init(address, verbose=verbose)
    _started.set()
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in its place


def stop_ray() -> None:
    """Undo `start_ray`; left to the end of the process, that takes longer."""
    if _started.is_set():
        import ray

        _started.clear()
        ray.shutdown()


def _init(address: str, *, verbose: bool) -> None:
    import ray

    level = logging.INFO if verbose else logging.ERROR
    try:
        with _few_services(logs=verbose):
            dashboard = False if address == "local" else None  # which a cluster that is joined has or has not
            ray.init(address=address, log_to_driver=verbose, logging_level=level, include_dashboard=dashboard)
    except ConnectionError as error:
        raise SpecError(f"the Ray cluster at RAY_ADDRESS={address} does not let us in ({error}).") from error
    except (RuntimeError, TimeoutError, OSError) as error:
        if "ersion mismatch" in str(error):
            raise SpecError(f"the Ray cluster at RAY_ADDRESS={address} is of another version ({error}).") from error
        raise RunError(f"Ray did not start: {str(error).splitlines()[0]}; is the machine overloaded?") from error


@contextmanager
def _few_services(*, logs: bool) -> Iterator[None]:
    """A Ray that is started meanwhile has no autoscaler, no API server and, unless told, no forwarding of logs.

    We need none of them, and each takes half a second of CPU and 60 MB; an end waits a second for the first. Ray has
    no option for it. One that calls them otherwise, in another version, starts them as it always has.
    """
    from ray._private.node import Node

    unneeded = {"start_monitor", "start_api_server", *(() if logs else ("start_log_monitor",))} & vars(Node).keys()
    before = {name: getattr(Node, name) for name in unneeded}
    for name in unneeded:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _is_host_and_port(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    return bool(colon) and "/" not in host and port.isdigit()


PROBE = """
import os, sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10).values()
except AuthenticationError:
    sys.exit(3)
sys.exit(0 if any(os.path.exists(node.raylet_socket_name) for node in nodes) else 4)
"""
"""Asked in a process of its own: a cluster that refuses takes the process with it, or never lets it try again."""
TOKEN, STRANGER = 3, 4


def _check_admitted(address: str) -> None:
    """Raises SpecError where nobody answers, a token is missing or wrong, or this machine is no node."""
    _check_reachable(address)
    answer = TOKEN if _lacks_token() else _probe(address)
    if answer == TOKEN and "RAY_AUTH_MODE" not in os.environ and not _lacks_token("token"):
        os.environ["RAY_AUTH_MODE"] = "token"  # the cluster asks for one; the client sends it only when told to
        answer = _probe(address)
    if answer == TOKEN:
        raise SpecError(
            f"the Ray cluster at RAY_ADDRESS={address} does not let us in: it asks for a token, and ours is none or "
            "another; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH."
        )
    if answer == STRANGER:
        raise SpecError(
            f"this machine is no node of the Ray cluster at RAY_ADDRESS={address}; run fedray on one of its nodes."
        )


def _lacks_token(mode: str | None = None) -> bool:
    """Whether a token is to be sent, and there is none: Ray would end the process."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    there = bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(named).is_file()
    return (mode or os.environ.get("RAY_AUTH_MODE")) == "token" and not there


def _probe(address: str) -> int:
    return subprocess.run([sys.executable, "-c", PROBE, address], capture_output=True, check=False).returncode


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise SpecError(f"no Ray cluster answers at RAY_ADDRESS={address} ({error.strerror or error}).") from None
