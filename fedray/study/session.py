"""Start an experiment where its spec says: in this process, or under a driver actor on Ray."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fedray.backends.ray.cluster import start_ray
from fedray.cache import cache_folder
from fedray.config.experiment import Experiment
from fedray.errors import RunError, SpecError
from fedray.results.run_folder import RunFolder
from fedray.results.storage import storage_of
from fedray.types import Event, RoundResult

MAX_DRIVER_LOSSES = 3
"""How often in a row the driver may be lost without having finished a round."""


def run(experiment: Experiment, folder: str | Path, *, resume: bool = False) -> Iterator[RoundResult]:
    """Run one experiment into a folder or URI, yielding each round once it is on disk.

    A finished run of the same spec is left as it is, and yields nothing. Raises SpecError for what
    cannot be run, RunError where clients fail.
    """
    with Session() as session:
        for event in session.run(experiment, folder, resume=resume):
            if isinstance(event, RoundResult):
                yield event


RESUME_LOCK_TIMEOUT_S = 15
"""Seconds that the driver of a command which was killed, and is resumed, may take to be gone."""


ONE_AHEAD = {"num_returns": "streaming", "_generator_backpressure_num_objects": 1}
"""The driver makes one round while the one before is being uploaded, and no more: that one's checkpoint stays."""


class Session:
    """Runs experiments one after another; the processes that one needed, the next finds warm."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._driver: Any = None

    def run(self, experiment: Experiment, folder: str | Path, *, resume: bool = False) -> Iterator[Event]:
        """As `run`, and how far the teachers' answers have come where a round waits for them."""
        storage = storage_of(folder).working_copy()
        storage.pull()
        target = RunFolder(storage.folder)
        target.check(experiment, resume=resume)
        if target.finished:
            storage.release()
            return
        with target.lock(RESUME_LOCK_TIMEOUT_S if resume else 0):
            pass  # the driver will hold it; who comes second is told before Ray has started
        pushed = target.resumable_from
        try:
            for event in self._start("run", experiment, target.path.absolute(), sys.argv):
                if isinstance(event, RoundResult) and (newest := target.resumable_from) > pushed:
                    storage.push()
                    pushed = newest
                yield event
        finally:
            storage.push()
        storage.release()

    def check_teachers(self, experiment: Experiment) -> Iterator[Any]:
        """How often the experiment's teachers are right: `checking.Checked` of each, and `Asking` before."""
        yield from self._start("check_teachers", experiment)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self, method: str, experiment: Experiment, *arguments: Any) -> Iterator[Any]:
        if experiment.resources.backend == "ray":
            yield from self._under_actor(method, experiment, cache_folder(), *arguments)
        else:
            yield from getattr(InProcessRunner(), method)(experiment, cache_folder(), *arguments)

    def _under_actor(self, method: str, *arguments: Any) -> Iterator[Any]:
        """A driver that is lost is replaced by one that goes on from the last checkpoint."""
        start_ray(verbose=self._verbose)
        from ray.exceptions import RayActorError

        losses = 0
        while True:
            try:
                for event in self._events(method, *arguments):
                    losses = 0 if isinstance(event, RoundResult) else losses
                    yield event
                return
            except RayActorError as error:
                losses += 1
                if losses == MAX_DRIVER_LOSSES or method != "run":
                    raise RunError(f"the driver actor was lost: {error}") from None
                arguments = (*arguments[:4], DRIVER_LOCK_TIMEOUT_S)

    def _events(self, method: str, *arguments: Any) -> Iterator[Any]:
        import ray
        from ray.exceptions import RayTaskError

        if self._driver is None:
            self._driver = _start_driver()
        done = False
        try:
            for reference in getattr(self._driver, method).options(**ONE_AHEAD).remote(*arguments):
                yield ray.get(reference)
            done = True
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, SpecError | RunError) else error) from None
        finally:
            if not done:
                self._stop()

    def _stop(self) -> None:
        """Have the driver save the last finished round, and let it go."""
        if self._driver is None:
            return
        import ray

        driver, self._driver = self._driver, None
        with suppress(Exception):  # it may be gone
            ray.get(driver.stop.remote(), timeout=30)
        ray.kill(driver)  # and with it the client actors, which it owns


def _start_driver() -> Any:
    """On this node: the results and the bank are where the command runs."""
    import ray

    from fedray.backends.ray.node_sums import on_node, this_node

    actor: Any = ray.remote(DriverActor)
    return actor.options(num_cpus=0, max_concurrency=2, scheduling_strategy=on_node(this_node())).remote(
        str(Path.cwd())
    )


@contextmanager
def probing(*, verbose: bool = False) -> Iterator[tuple[Mapping[str, float], Callable[[Experiment, Any], Any]]]:
    """What the cluster has, and backends that take all of it, one after another on the same actors."""
    start_ray(verbose=verbose)
    from fedray.backends.ray.actors import RayBackend
    from fedray.backends.ray.pool import ActorPool, cluster_resources

    pool = ActorPool()
    try:
        yield cluster_resources(), partial(RayBackend, pool=pool)
    finally:
        pool.close()


DRIVER_LOCK_TIMEOUT_S = 60
"""Seconds to wait for a driver that was killed to be gone from the folder. Another run is told at once."""


class InProcessRunner:
    """Runs drivers in this process, where the spec says `backend: serial`."""

    def __init__(self) -> None:
        self._driver: Any = None

    def run(
        self, experiment: Experiment, cache: Path, folder: Path, command: Sequence[str], lock_timeout: float = 0
    ) -> Iterator[Event]:
        make_backend = self._make_backend(experiment)  # before torch is imported: its actors import it meanwhile
        from fedray.server.driver import Driver

        self._driver = Driver(experiment, folder, make_backend, command, cache, lock_timeout=lock_timeout)
        yield from self._driver.run()

    def stop(self) -> None:
        """Save the last finished round."""
        if self._driver is not None:
            self._driver.stop()

    def check_teachers(self, experiment: Experiment, cache: Path) -> Iterator[Any]:
        make_backend = self._make_backend(experiment)
        from fedray.data import federated
        from fedray.server.teacher_check import check_teachers
        from fedray.server.teacher_client import TeacherClient
        from fedray.teachers.cache import TeacherCache

        data = federated.load(experiment.data, experiment.partition, experiment.seed)
        backend = make_backend(experiment, data)
        try:
            client, progress = TeacherClient(experiment, data, backend, TeacherCache(cache)), list[Any]()
            accuracies = check_teachers(experiment, data, client, progress.append)
            yield from progress
            yield from accuracies
        finally:
            backend.close()

    def _make_backend(self, _: Experiment) -> Callable[[Experiment, Any], Any]:
        from fedray.backends.serial import SerialBackend

        return SerialBackend


class DriverActor(InProcessRunner):
    """Holds a driver, and the actors it drives. Importing torch is left to the process it runs in."""

    def __init__(self, folder: str) -> None:
        """`folder` is where the command runs: a spec's paths are relative to it."""
        super().__init__()
        os.chdir(folder)
        from fedray.backends.ray.pool import ActorPool

        self._pool = ActorPool()

    def _make_backend(self, experiment: Experiment) -> Callable[[Experiment, Any], Any]:
        if experiment.clients is not None:
            self._pool.fit(experiment, experiment.clients)
        from fedray.backends.ray.actors import RayBackend

        return partial(RayBackend, pool=self._pool)
