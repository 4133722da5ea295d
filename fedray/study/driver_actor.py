"""The driver actor: a process with the driver of one experiment after another, and the worker actors."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.actor import ActorProxy

from fedray.backends.ray.nodes import on_node, this_node
from fedray.config.experiment import Experiment
from fedray.types import Notice, Progress, RoundResult

if TYPE_CHECKING:
    from fedray.backends.base import MakeBackend
    from fedray.server.driver import Driver
    from fedray.server.teacher_check import TeacherAccuracy


class DriverActor:
    """Holds a driver and its worker actors. The actor's process imports torch; the command's does not."""

    def __init__(self, folder: str) -> None:
        """`folder` is the working directory of the command, to which paths of a spec are relative."""
        os.chdir(folder)
        from fedray.backends.ray.pool import ActorPool

        self._pool = ActorPool()
        self._driver: Driver | None = None
        self._progress: list[Progress] = []  # notices since the last call of `progress`, and the newest of the rest

    # At most one round runs while the previous one is uploaded, so that the checkpoint of the latter still exists.
    @ray.method(num_returns="streaming", _generator_backpressure_num_objects=1)
    def run(
        self, experiment: Experiment, cache: Path, folder: Path, command: Sequence[str], lock_timeout: float,
        allow_code_change: bool,
    ) -> Iterator[RoundResult]:  # fmt: skip
        """Run an experiment; yield each round."""
        make_backend = self._start_actors(experiment)
        from fedray.server.driver import Driver

        self._driver = Driver(
            experiment, folder, make_backend, command, cache,
            lock_timeout=lock_timeout, allow_code_change=allow_code_change,
        )  # fmt: skip
        yield from self._driver.run(self._set_progress)

    @ray.method
    def stop(self) -> None:
        """Save the last finished round."""
        if self._driver is not None:
            self._driver.stop()

    @ray.method
    def check_teachers(self, experiment: Experiment, cache: Path) -> "list[TeacherAccuracy]":
        """Return the accuracy of each teacher of an experiment."""
        from fedray.server.teacher_check import check_teachers

        return check_teachers(experiment, cache, self._start_actors(experiment), self._set_progress)

    @ray.method
    def progress(self) -> Sequence[Progress]:
        """Return all notices and the newest other progress since the last call."""
        progress, self._progress = self._progress, []
        return progress

    def _set_progress(self, progress: Progress) -> None:
        self._progress = [*(each for each in self._progress if isinstance(each, Notice)), progress]

    def _start_actors(self, experiment: Experiment) -> "MakeBackend":
        """Start the worker actors, which import torch while this process does; return the backend that uses them."""
        if experiment.clients is not None:
            self._pool.fit(experiment, experiment.clients)
        from fedray.backends.ray.actors import RayBackend

        return partial(RayBackend, pool=self._pool)


def start_driver() -> ActorProxy[DriverActor]:
    """Start the driver actor on this node, where the results and the teacher cache are."""
    options = {"num_cpus": 0, "max_concurrency": 3, "scheduling_strategy": on_node(this_node())}
    return ray.remote(DriverActor).options(**options).remote(str(Path.cwd()))
