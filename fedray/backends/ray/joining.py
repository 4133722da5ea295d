"""Checks before fedray joins the Ray cluster that RAY_ADDRESS names. Ray itself would retry, or end the process."""

import os
import socket
import subprocess
import sys

from fedray.backends.ray.own_ray import lacks_token
from fedray.errors import SpecError

PROBE_SCRIPT = """
import os, sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError, RpcError
try:
    nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10).values()
except AuthenticationError:
    sys.exit(3)
except RpcError:
    sys.exit(5)
sys.exit(0 if any(os.path.exists(node.raylet_socket_name) for node in nodes) else 4)
"""
"""Runs in a process of its own: a refused connection ends the process, or prevents a second attempt."""
TOKEN_REFUSED, NOT_A_NODE, NO_REPLY = 3, 4, 5
"""Exit codes of PROBE_SCRIPT."""

CONNECT_TIMEOUT_S = 5
PROBE_TIMEOUT_S = 30
MAX_PORT = 65535


def checked_address(address: str) -> str:
    """Return HOST:PORT of a cluster that admits this machine, for `auto` that of the cluster on this machine.

    Raises SpecError for an address in another form, or where the cluster does not answer, refuses the token or does
    not include this machine.
    """
    resolved = _running_here() if address == "auto" else address
    if not _is_host_and_port(resolved):
        raise SpecError(
            f"RAY_ADDRESS is '{address}', but must be HOST:PORT, such as 10.0.0.1:6379, the address of a cluster of "
            "which this machine is a node; or auto, the cluster that runs here, or local, to start Ray here."
        )
    _check_reachable(resolved)
    _check_admitted(resolved)
    return resolved


def _running_here() -> str:
    """Return the address of the cluster that was started on this machine. Raises SpecError if there is none."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return str(canonicalize_bootstrap_address("auto"))
    except (ConnectionError, RuntimeError) as error:
        raise SpecError("RAY_ADDRESS is 'auto', but no Ray cluster runs on this machine.") from error


def _is_host_and_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:9]) <= MAX_PORT
    return bool(host) and "/" not in host and (":" not in host or host.startswith("[")) and is_port


def _check_admitted(address: str) -> None:
    code = TOKEN_REFUSED if lacks_token() else _probe(address)
    if code == TOKEN_REFUSED and "RAY_AUTH_MODE" not in os.environ and not lacks_token("token"):
        os.environ["RAY_AUTH_MODE"] = "token"  # the cluster requires a token, which the client sends only in this mode
        code = _probe(address)
    if code == TOKEN_REFUSED:
        raise SpecError(
            f"the Ray cluster at RAY_ADDRESS={address} requires a token, which is missing or wrong; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH."
        )
    if code == NO_REPLY:
        raise SpecError(f"the server at RAY_ADDRESS={address} does not reply as the head of a Ray cluster does.")
    if code == NOT_A_NODE:
        raise SpecError(
            f"this machine is not a node of the Ray cluster at RAY_ADDRESS={address}; run fedray on one of its nodes."
        )


def _probe(address: str) -> int:
    command = [sys.executable, "-P", "-c", PROBE_SCRIPT, address]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=PROBE_TIMEOUT_S).returncode
    except subprocess.TimeoutExpired:
        return NO_REPLY


def _check_reachable(address: str) -> None:
    """Raises SpecError where no connection is possible; Ray itself would retry for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise SpecError(f"no Ray cluster answers at RAY_ADDRESS={address} ({error.strerror or error}).") from None
    except ValueError as error:  # a label of the host name is empty or too long
        raise SpecError(f"RAY_ADDRESS is '{address}', in which no host is named ({error}).") from None
