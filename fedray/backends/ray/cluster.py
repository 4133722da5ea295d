"""The Ray cluster that fedray runs on: the cluster that RAY_ADDRESS names, or a Ray on this machine."""

import logging
import os
import signal
import threading

from fedray.backends.ray.joining import checked_address
from fedray.backends.ray.own_ray import cluster_address, protect
from fedray.backends.ray.start_errors import start_error

_started_here = threading.Event()
"""Set if fedray has connected to Ray. A Python program that calls fedray may have connected before."""


def start_ray(*, verbose: bool = False) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine. Further calls have no effect.

    Raises SpecError where the cluster cannot be joined, RunError where Ray does not start.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default of Ray 2.55; avoids its warning
    os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's default of 15, all other processes have priority
    protect()
    address = cluster_address()
    import ray

    if ray.is_initialized():
        return
    if address != "local":
        os.environ["RAY_ADDRESS"] = address  # without spaces, because Ray reads it too
        address = checked_address(address)
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
    except Exception as error:  # Ray raises a plain Exception where its node does not start in time
        raise start_error(error, address) from error
