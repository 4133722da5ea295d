"""Start an experiment where its spec says: in this process, or under a driver actor on Ray."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from fedray.config import Experiment
from fedray.errors import RunError, SpecError
from fedray.results import Folder
from fedray.storage import plain_folder
from fedray.teachers.bank import cache_folder
from fedray.types import Asking, RoundResult

Event: TypeAlias = Asking | RoundResult


def run(experiment: Experiment, folder: str | Path, *, resume: bool = False) -> Iterator[RoundResult]:
    """Run one experiment into `folder`, yielding each round once it is on disk.

    A finished run of the same spec is left as it is, and yields nothing. Raises SpecError for what
    cannot be run, RunError where clients fail.
    """
    with Session() as session:
        for event in session.run(experiment, folder, resume=resume):
            if isinstance(event, RoundResult):
                yield event


class Session:
    """Runs experiments one after another; the processes that one needed, the next finds warm."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._driver: Any = None

    def run(self, experiment: Experiment, folder: str | Path, *, resume: bool = False) -> Iterator[Event]:
        """As `run`, and how far the teachers' answers have come where a round waits for them."""
        target = Folder(plain_folder(folder))
        target.check(experiment, resume=resume)
        if not target.finished:
            yield from self._start("run", experiment, target.path.absolute(), sys.argv)

    def check(self, experiment: Experiment) -> Iterator[Any]:
        """How often the experiment's teachers are right: `checking.Checked` of each, and `Asking` before."""
        yield from self._start("check", experiment)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self, method: str, experiment: Experiment, *arguments: Any) -> Iterator[Any]:
        if experiment.resources.backend == "ray":
            yield from self._under_actor(method, experiment, cache_folder(), *arguments)
        else:
            yield from getattr(Here(), method)(experiment, cache_folder(), *arguments)

    def _under_actor(self, method: str, *arguments: Any) -> Iterator[Any]:
        start_ray(verbose=self._verbose)
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        if self._driver is None:
            self._driver = ray.remote(DriverActor).options(num_cpus=0).remote()
        done = False
        try:
            for reference in getattr(self._driver, method).options(num_returns="streaming").remote(*arguments):
                yield ray.get(reference)
            done = True
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, SpecError | RunError) else error) from None
        except RayActorError as error:
            raise RunError(f"the driver actor was lost: {error}") from None
        finally:
            if not done:
                self._stop()

    def _stop(self) -> None:
        if self._driver is not None:
            import ray

            ray.kill(self._driver)  # and with it the client actors, which it owns
            self._driver = None


@contextmanager
def probing(*, verbose: bool = False) -> Iterator[tuple[Mapping[str, float], Callable[[Experiment, Any], Any]]]:
    """What the cluster has, and backends that take all of it, one after another on the same actors."""
    start_ray(verbose=verbose)
    from fedray.backends.actor_pool import ActorPool, cluster_resources
    from fedray.backends.ray_actors import RayBackend

    pool = ActorPool()
    try:
        yield cluster_resources(), partial(RayBackend, pool=pool)
    finally:
        pool.close()


class Here:
    """Runs drivers in this process, where the spec says `backend: serial`."""

    def run(self, experiment: Experiment, cache: Path, folder: Path, command: Sequence[str]) -> Iterator[Event]:
        make_backend = self._make_backend(experiment)  # before torch is imported: its actors import it meanwhile
        from fedray.driver import Driver

        yield from Driver(experiment, folder, make_backend, command, cache).run()

    def check(self, experiment: Experiment, cache: Path) -> Iterator[Any]:
        make_backend = self._make_backend(experiment)
        from fedray.asking import Asker
        from fedray.checking import check
        from fedray.data import federation
        from fedray.teachers.bank import Bank

        data = federation.load(experiment)
        backend = make_backend(experiment, data)
        try:
            yield from check(experiment, data, Asker(experiment, data, backend, Bank(cache)))
        finally:
            backend.close()

    def _make_backend(self, _: Experiment) -> Callable[[Experiment, Any], Any]:
        from fedray.backends.serial import SerialBackend

        return SerialBackend


class DriverActor(Here):
    """Holds a driver, and the actors it drives. Importing torch is left to the process it runs in."""

    def __init__(self) -> None:
        from fedray.backends.actor_pool import ActorPool

        self._pool = ActorPool()

    def _make_backend(self, experiment: Experiment) -> Callable[[Experiment, Any], Any]:
        if experiment.clients is not None:
            self._pool.fit(experiment, experiment.clients)
        from fedray.backends.ray_actors import RayBackend

        return partial(RayBackend, pool=self._pool)


def start_ray(*, verbose: bool = False) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine. Once is enough."""
    # What Ray does anyway from 2.55 on, said aloud so that it does not warn.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local" and (Path.home() / ".ray" / "auth_token").exists():
        # `ray start` has its cluster ask for this token, but a client sends it only when told to.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if not ray.is_initialized():
        _check_reachable(address)
        level = logging.INFO if verbose else logging.ERROR
        try:
            ray.init(address=address, log_to_driver=verbose, logging_level=level)
        except ConnectionError as error:
            raise SpecError(
                f"the Ray cluster at RAY_ADDRESS={address} does not let us in ({error}); if it asks for a token, "
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
            ) from error
        except (RuntimeError, TimeoutError, OSError) as error:
            raise RunError(f"Ray did not start: {str(error).splitlines()[0]}; is the machine overloaded?") from error


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise SpecError(f"no Ray cluster answers at RAY_ADDRESS={address} ({error.strerror or error}).") from None
