"""The Ray that the command starts on this machine."""

import subprocess
import sys

import pytest

from fedray.backends.ray.cluster import start_ray, stop_ray

pytestmark = pytest.mark.ray

SCRIPT = """
import os
import sys
from fedray.cluster import start_ray, stop_ray
start_ray(verbose=sys.argv[1:] == ["verbose"])
import ray
print(ray.get(ray.remote(lambda: os.nice(0)).remote()))
print(*ray._private.worker.global_worker.node.all_processes)
stop_ray()
print(ray.is_initialized())
"""


@pytest.mark.parametrize("how", [[], ["verbose"]])
def test_workers_go_first_services_without_a_use_are_left_out_and_it_goes_when_told(how: list[str]) -> None:
    command = [sys.executable, "-c", SCRIPT, *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    niceness, *services, still_there = done.stdout.split()
    assert niceness == "0"
    assert set(services) - {"reaper"} == {"gcs_server", "raylet"} | ({"log_monitor"} if how else set())
    assert still_there == "False"


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_that_was_there_before_stays() -> None:
    import ray

    start_ray()
    stop_ray()
    assert ray.is_initialized()
