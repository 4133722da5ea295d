"""Runs experiments where their specs say: in this process, or under a driver actor on Ray."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedray.backends.ray.cluster import start_ray
from fedray.backends.ray.own_ray import protect
from fedray.backends.ray.supervision import supervision
from fedray.cache import cache_folder
from fedray.config.experiment import Experiment
from fedray.errors import DamagedError, RunError, SpecError
from fedray.results.contents import PresentContents
from fedray.results.damage import damage
from fedray.results.run_folder import RunFolder
from fedray.results.storage import storage_of
from fedray.types import Notice, OnProgress, RoundResult, ignore_progress

if TYPE_CHECKING:
    import ray
    from ray.actor import ActorProxy

    from fedray.backends.base import MakeBackend
    from fedray.server.teacher_check import TeacherAccuracy
    from fedray.study.driver_actor import DriverActor

T = TypeVar("T")

MAX_DRIVER_LOSSES = 3
"""Driver actors that may be lost in a row without a finished round, until the run ends."""

RESUME_LOCK_TIMEOUT_S = 15
"""Seconds to wait for the driver of an earlier command, which was killed, to release the folder."""

DRIVER_LOCK_TIMEOUT_S = 60
"""Seconds to wait for a driver actor that was lost to release the folder."""

STOP_TIMEOUT_S = 30
"""Seconds that a driver actor has to save the last finished round."""

PROGRESS_INTERVAL_S = 0.5
"""Seconds between two requests of the driver actor's progress."""


def rounds(
    experiment: Experiment,
    folder: str | Path,
    *,
    resume: bool = True,
    verify_data: bool = False,
    allow_code_change: bool = False,
) -> Iterator[RoundResult]:
    """Run one experiment into a folder or URI; yield each round once it is on disk.

    An unfinished run of the same spec is continued, or refused if `resume` is false or if its data, code, threads or
    kind of device differ; `allow_code_change` accepts other code. A finished one is not changed, and yields nothing;
    DamagedError is raised if its files are damaged.
    `verify_data` compares contents also where sizes and times of files are unchanged. Raises SpecError for a spec that
    cannot run, RunError where clients fail.
    """
    with Session(verify_data=verify_data, allow_code_change=allow_code_change) as session:
        yield from session.run(experiment, folder, resume=resume)


class Session:
    """Runs experiments one after another. On Ray they share the driver actor and the worker processes."""

    def __init__(self, *, verbose: bool = False, verify_data: bool = False, allow_code_change: bool = False) -> None:
        """`verbose`: show the output of Ray and its actors. The others are those of the function `run`."""
        self._verbose, self._allow_code_change = verbose, allow_code_change
        self._contents = PresentContents(verify=verify_data)
        self._driver: ActorProxy[DriverActor] | None = None

    def run(
        self,
        experiment: Experiment,
        folder: str | Path,
        *,
        resume: bool = True,
        on_progress: OnProgress = ignore_progress,
    ) -> Iterator[RoundResult]:
        """Run an experiment as the function `run` does; call `on_progress` while a round waits."""
        storage = storage_of(folder).working_copy()
        storage.pull()
        target = RunFolder(storage.folder)
        target.check_format()
        _check_whole(target, str(storage))
        notes = target.check(
            experiment, resume=resume, allow_code_change=self._allow_code_change, contents=self._contents
        )
        if target.finished:
            _check_whole(target, str(storage), experiment.training.rounds)
            for note in notes:
                on_progress(Notice(note))
            storage.release()
            return
        with target.lock(RESUME_LOCK_TIMEOUT_S if target.resumable_from else 0):
            pass  # the driver takes the lock: a second command fails here, before Ray has started
        pushed = target.resumable_from
        try:
            for result in self._rounds(experiment, target.path.absolute(), on_progress):
                if (newest := target.resumable_from) > pushed:
                    storage.push()
                    pushed = newest
                yield result
        finally:
            storage.push()
        storage.release()

    def check_teachers(
        self, experiment: Experiment, on_progress: OnProgress = ignore_progress
    ) -> "list[TeacherAccuracy]":
        """Return the accuracy of each teacher of an experiment."""
        if experiment.resources.backend != "ray":
            from fedray.backends.serial import SerialBackend
            from fedray.server.teacher_check import check_teachers

            return check_teachers(experiment, cache_folder(), SerialBackend, on_progress)
        with self._driver_actor() as driver:
            reference = driver.check_teachers.remote(experiment, cache_folder())
            _wait(reference, driver, on_progress)
            _report_progress(driver, on_progress)  # since the last call
            return _get(reference)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _rounds(self, experiment: Experiment, folder: Path, on_progress: OnProgress) -> Iterator[RoundResult]:
        if experiment.resources.backend == "ray":
            return self._rounds_on_ray(experiment, folder, on_progress)
        from fedray.backends.serial import SerialBackend
        from fedray.server.driver import Driver

        driver = Driver(
            experiment, folder, SerialBackend, sys.argv, cache_folder(), allow_code_change=self._allow_code_change
        )
        return driver.run(on_progress)

    def _rounds_on_ray(self, experiment: Experiment, folder: Path, on_progress: OnProgress) -> Iterator[RoundResult]:
        """Yield the rounds of a driver actor. If the actor is lost, another one resumes from the last checkpoint."""
        protect()
        from ray.exceptions import RayActorError

        losses, lock_timeout = 0, 0
        while True:
            arguments = experiment, cache_folder(), folder, sys.argv, lock_timeout, self._allow_code_change
            try:
                with self._driver_actor() as driver:
                    is_started = False
                    rounds: Any = driver.run.remote(*arguments)  # a generator, which Ray types as a reference
                    while True:
                        _wait(rounds, driver, on_progress)
                        if not is_started:  # the warnings of a run that may have failed before its first round
                            _report_progress(driver, on_progress)
                            is_started = True
                        if (reference := next(rounds, None)) is None:
                            return
                        yield _get(reference)
                        losses = 0
            except RayActorError as error:
                losses, lock_timeout = losses + 1, DRIVER_LOCK_TIMEOUT_S
                if losses == MAX_DRIVER_LOSSES:
                    raise RunError(f"the driver actor was lost: {error}") from None

    @contextmanager
    def _driver_actor(self) -> "Iterator[ActorProxy[DriverActor]]":
        """The driver actor, which is started at the first use. An error ends it, and with it the worker actors."""
        start_ray(verbose=self._verbose)
        if self._driver is None:
            from fedray.study.driver_actor import start_driver

            self._driver = start_driver()
        try:
            yield self._driver
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        """Let the driver actor save the last finished round, and end it."""
        if self._driver is None:
            return
        import ray

        from fedray.backends.ray.nodes import end_actor

        driver, self._driver = self._driver, None
        with suppress(Exception):  # the actor may be lost
            ray.get(driver.stop.remote(), timeout=STOP_TIMEOUT_S)
        end_actor(driver)  # this also ends the worker actors, which the driver owns


def _check_whole(run: RunFolder, place: str, rounds: int | None = None) -> None:
    """Raises DamagedError for a finished run of damaged files. `rounds`: their number, once the spec is compared."""
    if run.finished and (reason := damage(run.path, rounds)):
        raise DamagedError(f"the finished run in '{place}' is damaged: {reason}; delete '{place}' to run it again.")


def _wait(pending: object, driver: "ActorProxy[DriverActor]", on_progress: OnProgress) -> None:
    """Wait for a reference, or for the next one of a generator, and report the driver's progress."""
    while not _is_ready(pending):
        _report_progress(driver, on_progress)


def _report_progress(driver: "ActorProxy[DriverActor]", on_progress: OnProgress) -> None:
    import ray

    reference = driver.progress.remote()
    while not _is_ready(reference):
        pass
    for progress in ray.get(reference):
        on_progress(progress)


def _is_ready(reference: object) -> bool:
    """Wait for a reference; return whether it is ready. Raises RayLostError where Ray is lost: it would never be."""
    import ray

    ready, _ = ray.wait([reference], timeout=PROGRESS_INTERVAL_S)
    if not ready:
        supervision.check()
    return bool(ready)


def _get(reference: "ray.ObjectRef[T]") -> T:
    """Return the value of a reference. Raises SpecError and RunError as the driver raised them."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, SpecError | RunError) else error) from None


@contextmanager
def probing(*, verbose: bool = False) -> "Iterator[tuple[Mapping[str, float], MakeBackend]]":
    """Yield the resources of the cluster, and a factory of backends that use all of it, one after another."""
    start_ray(verbose=verbose)
    from fedray.backends.ray.actors import RayBackend
    from fedray.backends.ray.nodes import cluster_resources
    from fedray.backends.ray.pool import ActorPool

    pool = ActorPool()
    try:
        yield cluster_resources(), partial(RayBackend, pool=pool)
    finally:
        pool.close()
