"""Start an experiment where its spec says: in this process, or under a driver actor on Ray."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedray.config import Experiment
from fedray.errors import ClientError, SpecError
from fedray.results import Folder
from fedray.types import RoundResult


def run(experiment: Experiment, folder: str | Path, *, resume: bool = False) -> Iterator[RoundResult]:
    """Run one experiment into `folder`, yielding each round once it is on disk.

    A finished run of the same spec is left as it is, and yields nothing. Raises SpecError for what
    cannot be run, ClientError where clients fail.
    """
    target = Folder(Path(folder))
    target.check(experiment, resume=resume)
    if target.finished:
        return
    start = _under_actor if experiment.resources.backend == "ray" else _here
    yield from start(experiment, target.path)


def start_ray(*, verbose: bool = False) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine. Once is enough."""
    # What Ray does anyway from 2.55 on, said aloud so that it does not warn.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if not ray.is_initialized():
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "local"),
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )


class DriverActor:
    """Holds a `Driver`. It imports torch when it runs; the process that asks for it need not."""

    def run(self, experiment: Experiment, folder: Path) -> Iterator[RoundResult]:
        from fedray.driver import Driver

        yield from Driver(experiment, folder).run()


def _here(experiment: Experiment, folder: Path) -> Iterator[RoundResult]:
    from fedray.driver import Driver

    yield from Driver(experiment, folder).run()


def _under_actor(experiment: Experiment, folder: Path) -> Iterator[RoundResult]:
    start_ray()
    import ray
    from ray.exceptions import RayTaskError

    driver: Any = ray.remote(DriverActor).options(num_cpus=0).remote()
    try:
        for reference in driver.run.options(num_returns="streaming").remote(experiment, folder.absolute()):
            yield ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, SpecError | ClientError) else error) from None
    finally:
        ray.kill(driver)  # and with it the client actors, which it owns
