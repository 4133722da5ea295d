"""Starting and stopping Ray on this machine."""

import os
import subprocess
import sys

import pytest

from fedray.backends.ray.cluster import start_ray, stop_ray

pytestmark = pytest.mark.ray

SCRIPT = """
import os
import sys
from fedray.backends.ray.cluster import start_ray, stop_ray
start_ray(verbose=sys.argv[1:] == ["verbose"])
import ray
print(ray.get(ray.remote(lambda: os.nice(0)).remote()))
stop_ray()
print(ray.is_initialized())
"""


@pytest.mark.parametrize("options", [[], pytest.param(["verbose"], marks=pytest.mark.slow)])
def test_workers_have_normal_priority_and_stop_ray_ends_it(options: list[str]) -> None:
    command = [sys.executable, "-c", SCRIPT, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split()[-2:] == [str(os.nice(0)), "False"]


@pytest.mark.usefixtures("ray_cluster")
def test_stop_ray_leaves_a_ray_that_was_running_before() -> None:
    import ray

    start_ray()
    stop_ray()
    assert ray.is_initialized()
