"""launch/local: cluster.sh. The slow tests start Ray nodes with it, as a user does."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.nodes import SCRIPT, clean_environment, cluster, session_pids, shell, write_space


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[dict[str, str]]:
    with cluster(3) as environment:
        yield environment


def leader(environment: dict[str, str], node: int) -> int:
    """Return the session id of a node's processes."""
    return int(Path(environment["FEDRAY_CLUSTER"], f"{node}.pid").read_text())


@pytest.mark.parametrize("words", [[], ["up"], ["up", "many"], ["up", "2", "two"], ["lose"], ["stop"]])
def test_invalid_arguments_print_the_usage(words: list[str], tmp_path: Path) -> None:
    result = shell([SCRIPT, *words], clean_environment(tmp_path) | {"FEDRAY_CLUSTER": str(tmp_path / "c")})
    assert result.returncode == 2
    assert "usage:" in result.stderr
    assert not (tmp_path / "c").exists()


def test_down_without_a_cluster_succeeds(tmp_path: Path) -> None:
    result = shell([SCRIPT, "down"], clean_environment(tmp_path) | {"FEDRAY_CLUSTER": str(tmp_path / "c")})
    assert (result.returncode, result.stderr) == (0, "")


def test_down_does_not_stop_a_process_that_reused_a_pid(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "1.pid").write_text(str(other.pid))
        shell([SCRIPT, "down"], clean_environment(tmp_path) | {"FEDRAY_CLUSTER": str(tmp_path)})
        assert other.poll() is None
        other.kill()


@pytest.mark.slow
@pytest.mark.ray
def test_token_is_private_and_required(three_nodes: dict[str, str]) -> None:
    token = Path(three_nodes["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    for changes in [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}]:
        result = shell(["ray", "status", "--address", three_nodes["RAY_ADDRESS"]], three_nodes | changes)
        assert result.returncode != 0
        assert "Active" not in result.stdout
    assert shell(["ray", "status", "--address", three_nodes["RAY_ADDRESS"]], three_nodes).stdout.count(" node_") == 3
    listening = subprocess.run(["ss", "-ltnp"], text=True, capture_output=True, check=False).stdout
    assert ":8265" not in listening or "dashboard" not in listening


@pytest.mark.slow
@pytest.mark.ray
def test_run_survives_a_lost_node_and_up_restores_it(three_nodes: dict[str, str], tmp_path: Path) -> None:
    spec = write_space(tmp_path / "tiny.yaml", rounds=12)
    overrides = ["partition.clients=4", "resources.clients_per_actor=1", "resources.cpus_per_client=1"]
    command = ["fedray", "run", str(spec), *overrides, "--results", str(tmp_path / "results")]
    with subprocess.Popen(command, env=three_nodes, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "round 3/12" in line:
                lost = leader(three_nodes, 3)
                assert shell([SCRIPT, "lose", "3"], three_nodes).returncode == 0
                break
        output = run.stdout.read()
    assert run.returncode == 0, output
    assert (tmp_path / "results" / "tiny" / "DONE").exists()
    assert session_pids(lost) == []
    assert "node 3: lost" in shell([SCRIPT, "status"], three_nodes).stdout
    assert shell([SCRIPT, "up", "3"], three_nodes).returncode == 0
    assert "lost" not in shell([SCRIPT, "status"], three_nodes).stdout


@pytest.mark.slow
@pytest.mark.ray
def test_down_stops_the_started_nodes_and_nothing_else() -> None:
    with cluster(2) as environment, subprocess.Popen(["sleep", "120"], start_new_session=True) as other:
        leaders = [leader(environment, node) for node in (1, 2)]
        assert all(session_pids(number) for number in leaders)
        assert shell([SCRIPT, "down"], environment).returncode == 0
        for _ in range(50):
            if not any(session_pids(number) for number in leaders):
                break
            time.sleep(0.2)
        assert [session_pids(number) for number in leaders] == [[], []]
        assert other.poll() is None
        os.kill(other.pid, signal.SIGTERM)
