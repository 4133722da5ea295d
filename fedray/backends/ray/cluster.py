"""The Ray cluster that fedray runs on: the cluster that RAY_ADDRESS names, or a Ray on this machine."""

import logging
import os
import signal
import threading
from pathlib import Path

from fedray.backends.ray.joining import checked_address
from fedray.backends.ray.own_ray import cluster_address, protect
from fedray.backends.ray.start_errors import start_error
from fedray.backends.ray.supervision import supervision

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
        if not supervision.is_lost:
            return
        stop_ray()
    if address != "local":
        os.environ["RAY_ADDRESS"] = address  # without spaces, because Ray reads it too
        address = checked_address(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    session_folder = _init(address, verbose=verbose)
    _started_here.set()
    supervision.start(session_folder)
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init has replaced the handler


def stop_ray() -> bool:
    """Undo `start_ray`. Return whether this took limited time: if not, the process would wait for Ray at its end."""
    if not _started_here.is_set():
        return True
    import ray

    _started_here.clear()
    return supervision.stop(ray.shutdown)


def _init(address: str, *, verbose: bool) -> Path | None:
    """Connect to Ray; return the folder of its session if Ray was started here."""
    import ray
    from ray._private.worker import RayContext

    level = logging.INFO if verbose else logging.ERROR
    dashboard = False if address == "local" else None  # an existing cluster has its own setting
    try:
        context = ray.init(address=address, log_to_driver=verbose, logging_level=level, include_dashboard=dashboard)
    except Exception as error:  # Ray raises a plain Exception where its node does not start in time
        raise start_error(error, address) from error
    assert isinstance(context, RayContext), "the other kind of context is of ray://, which fedray does not use"
    folder = context.address_info["session_dir"]
    return Path(folder) if folder and address == "local" else None
