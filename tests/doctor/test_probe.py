"""Probing Ray clusters of one and of three nodes."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.reports import required

from fedray.config.experiment import Experiment
from fedray.doctor.requirements import RequiredFile


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_probe_of_one_machine_leaves_no_files(tmp_path: Path, small: Callable[..., Experiment]) -> None:
    from fedray.doctor.probe import probe

    (tmp_path / "w.pt").write_bytes(b"12345")
    weights = RequiredFile("proxy.init", f"file:{tmp_path}/w.pt", on_every_node=True)
    report = probe(str(tmp_path / "new" / "results"), required(small(), files=(weights,)))
    (local,) = report.nodes
    assert (local.is_local, local.cores, local.gpus) == (True, 3, 1)
    assert local.report is not None
    assert local.report.software.versions() == report.software.versions()
    assert len(report.software.source) == 8
    assert local.report.file_sizes == {weights.text: 5}
    assert local.report.memory is None or 0 < local.report.memory.free < local.report.memory.total
    assert local.report.clock_offset_s == 0
    assert report.actor_error == ""
    for path in (report.results, report.teacher_cache):
        assert path is not None
        assert [(access.shared, access.error) for access in path.access.values()] == [(True, "")]
    assert [file.name for file in tmp_path.iterdir()] == ["w.pt"]
    import torch

    assert len(local.report.gpus or ()) == torch.cuda.device_count()  # Ray's GPU is simulated


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_shared_path_under_a_uri_and_below_a_file(tmp_path: Path) -> None:
    from fedray.doctor.probe import NodeProber

    prober = NodeProber(60)
    path = prober.shared_path(f"file://{tmp_path}/study")
    assert [(access.shared, access.error) for access in path.access.values()] == [(True, "")]
    assert list((tmp_path / "study").iterdir()) == []
    assert prober.shared_path("s4://bucket/x").error
    (tmp_path / "file").touch()
    assert prober.shared_path(str(tmp_path / "file" / "below")).error == "Not a directory"


THREE_NODES = """
    import json, os, signal, sys
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray
    from ray.cluster_utils import Cluster
    from fedray.doctor.probe import probe

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=3)
    third = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)

    class Holder:
        def ready(self):
            return True

    holder = ray.remote(num_cpus=3)(Holder).remote()
    ray.get(holder.ready.remote())

    def rows(report):
        return [
            [n.name, n.is_local, n.free_cores, n.cores, n.probe_error, bool(n.report), bool(n.exit_reason),
             n.exit_was_intended]
            for n in report.nodes
        ] + [sorted(access.shared for access in report.results.access.values())]

    reports = [rows(probe(sys.argv[1], None))]
    raylet = third.all_processes["raylet"][0].process.pid
    os.kill(raylet, signal.SIGSTOP)
    reports.append(rows(probe(sys.argv[1], None, timeout_s=3)))
    os.kill(raylet, signal.SIGCONT)
    cluster.remove_node(third)
    reports.append(rows(probe(sys.argv[1], None)))
    print(json.dumps(reports))
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_three_nodes_of_which_one_is_stopped_and_then_removed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(THREE_NODES), str(tmp_path / "results")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    complete, stopped, removed = json.loads(done.stdout.splitlines()[-1])

    assert [row[1] for row in complete[:3]] == [True, False, False]
    assert sorted((row[2], row[3]) for row in complete[:3]) == [(0, 3), (1, 1), (2, 2)]
    assert all(row[5] and not row[4] and not row[6] for row in complete[:3])
    assert len({row[0] for row in complete[:3]}) == 3
    assert complete[3] == [True, True, True]

    (unresponsive,) = [row for row in stopped[:3] if row[4]]
    assert (unresponsive[3], unresponsive[4], unresponsive[5]) == (1, "does not respond within 3 s", False)
    assert stopped[3] == [True, True]

    assert [row[6:] for row in removed[:3]] == [[False, False], [False, False], [True, True]]
    assert removed[3] == [True, True]
    assert list(tmp_path.iterdir()) == []
