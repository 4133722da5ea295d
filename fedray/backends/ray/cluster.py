"""The Ray cluster that fedray runs on: the cluster that RAY_ADDRESS names, or a Ray on this machine."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from fedray.errors import RunError, SpecError

_started_here = threading.Event()
"""Set if fedray has connected to Ray. A Python program that calls fedray may have connected before."""


def start_ray(*, verbose: bool = False) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine. Further calls have no effect.

    Raises SpecError where the cluster cannot be joined, RunError where Ray does not start.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default of Ray 2.55; avoids its warning
    os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's default of 15, all other processes have priority
    address = os.environ.get("RAY_ADDRESS", "local")
    import ray

    if ray.is_initialized():
        return
    if _is_host_and_port(address):
        _check_admitted(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    _init(address, verbose=verbose)
    _started_here.set()
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init has replaced the handler


def stop_ray() -> None:
    """Undo `start_ray`. This is faster than to leave it to the end of the process."""
    if _started_here.is_set():
        import ray

        _started_here.clear()
        ray.shutdown()


def _init(address: str, *, verbose: bool) -> None:
    import ray

    level = logging.INFO if verbose else logging.ERROR
    dashboard = False if address == "local" else None  # an existing cluster has its own setting
    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=level, include_dashboard=dashboard)
    except ConnectionError as error:
        raise SpecError(f"the Ray cluster at RAY_ADDRESS={address} refuses the connection ({error}).") from error
    except (RuntimeError, TimeoutError, OSError) as error:
        if "ersion mismatch" in str(error):
            raise SpecError(f"the Ray cluster at RAY_ADDRESS={address} has another version ({error}).") from error
        raise RunError(f"Ray did not start: {str(error).splitlines()[0]}; is the machine overloaded?") from error


def _is_host_and_port(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    return bool(colon) and "/" not in host and port.isdigit()


PROBE_SCRIPT = """
import os, sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10).values()
except AuthenticationError:
    sys.exit(3)
sys.exit(0 if any(os.path.exists(node.raylet_socket_name) for node in nodes) else 4)
"""
"""Runs in a process of its own: a refused connection ends the process, or prevents a second attempt."""
TOKEN_REFUSED, NOT_A_NODE = 3, 4
"""Exit codes of PROBE_SCRIPT."""

CONNECT_TIMEOUT_S = 5


def _check_admitted(address: str) -> None:
    """Raises SpecError where the cluster does not answer, refuses the token, or does not include this machine."""
    _check_reachable(address)
    code = TOKEN_REFUSED if _lacks_token() else _probe(address)
    if code == TOKEN_REFUSED and "RAY_AUTH_MODE" not in os.environ and not _lacks_token("token"):
        os.environ["RAY_AUTH_MODE"] = "token"  # the cluster requires a token, which the client sends only in this mode
        code = _probe(address)
    if code == TOKEN_REFUSED:
        raise SpecError(
            f"the Ray cluster at RAY_ADDRESS={address} requires a token, which is missing or wrong; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH."
        )
    if code == NOT_A_NODE:
        raise SpecError(
            f"this machine is not a node of the Ray cluster at RAY_ADDRESS={address}; run fedray on one of its nodes."
        )


def _lacks_token(mode: str | None = None) -> bool:
    """Whether Ray has to send a token and there is none, in which case Ray would end the process."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(path).is_file()
    return (mode or os.environ.get("RAY_AUTH_MODE")) == "token" and not has_token


def _probe(address: str) -> int:
    return subprocess.run(
        [sys.executable, "-P", "-c", PROBE_SCRIPT, address], capture_output=True, check=False
    ).returncode


def _check_reachable(address: str) -> None:
    """Raises SpecError where no connection is possible; Ray itself would retry for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise SpecError(f"no Ray cluster answers at RAY_ADDRESS={address} ({error.strerror or error}).") from None
