"""Teachers on real Ray actors: clients get the targets of a serial run, with any number of actors."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import TypeAdapter
from safetensors.numpy import load_file

from fedray.backends.base import MakeBackend
from fedray.backends.ray.actors import RayBackend
from fedray.backends.ray.pool import ActorPool
from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.server.driver import Driver
from fedray.teachers.cache import TeacherCache
from fedray.teachers.sections import AnyTeacher

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Make = Callable[..., Experiment]

STAND_IN = {"kind": "supervised", "epochs": 2, "batch_size": 4}
PROBE = {"kind": "adapted", "backbone": STAND_IN, "epochs": 2}
TUNED = {**PROBE, "method": "fine_tune", "epochs": 1}
SEVERAL = {"kind": "ensemble", "teachers": [STAND_IN, PROBE, TUNED], "assignment": [0, [0, 1], 2, 1]}


@pytest.fixture(scope="module")
def pool() -> Iterator[ActorPool]:
    """Actors that stay warm from one test to the next."""
    pool = ActorPool()
    yield pool
    pool.close()


def finish(experiment: Experiment, folder: Path, make_backend: MakeBackend, cache: Path) -> dict[str, bytes]:
    for _ in Driver(experiment, folder, make_backend, cache=cache).run():
        pass
    return {name: values.tobytes() for name, values in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize("view", ["plain", "proxy"])
@pytest.mark.parametrize("mode", ["cached", "online"])
def test_three_actors_give_the_bits_of_one_process(
    small: Make, pool: ActorPool, tmp_path: Path, mode: str, view: str
) -> None:
    def run(backend: str, make_backend: MakeBackend) -> dict[str, bytes]:
        teacher: Any = TypeAdapter(AnyTeacher).validate_python({**SEVERAL, "mode": mode, "view": view})
        experiment = small(
            data={"train_limit": 100, "augment": "crop_flip"},
            teacher=teacher,
            strategy={"name": "fedlpfm", "lam": 0.5, "temperature": 2.0},
            training={"rounds": 2, "local_epochs": 2},
            resources={"backend": backend},
        )
        return finish(experiment, tmp_path / backend, make_backend, tmp_path / f"{backend} cache")

    assert run("ray", partial(RayBackend, pool=pool)) == run("serial", SerialBackend)
    on_ray, serial = (pd.read_csv(tmp_path / backend / "rounds.csv") for backend in ("ray", "serial"))
    assert on_ray["teacher_forward_passes"].tolist() == serial["teacher_forward_passes"].tolist()
    ray_entries, serial_entries = (
        {entry.key: entry.count_valid() for entry in TeacherCache(tmp_path / f"{b} cache").entries()}
        for b in ("ray", "serial")
    )
    assert ray_entries == serial_entries
    assert bool(ray_entries) == (mode == "cached")
