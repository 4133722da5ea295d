"""The Ray that the command starts on this machine."""

import subprocess
import sys

import pytest

from fedray.cluster import start_ray, stop_ray

pytestmark = pytest.mark.ray

SCRIPT = """
import os
from fedray.cluster import start_ray, stop_ray
start_ray()
import ray
print(ray.get(ray.remote(lambda: os.nice(0)).remote()))
print(repr(ray._private.worker.global_worker.node.webui_url))
stop_ray()
print(ray.is_initialized())
"""


def test_workers_go_first_nobody_serves_a_dashboard_and_it_goes_when_told() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["0", "''", "False"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_that_was_there_before_stays() -> None:
    import ray

    start_ray()
    stop_ray()
    assert ray.is_initialized()
