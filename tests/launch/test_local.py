"""launch/local: nodes on this machine. The slow ones start Ray, as a user would."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.nodes import SCRIPT, cluster, own_environment, session, shell, write_space


@pytest.fixture(scope="module")
def three() -> Iterator[dict[str, str]]:
    with cluster(3) as environment:
        yield environment


def leader(environment: dict[str, str], node: int) -> int:
    return int(Path(environment["FEDRAY_CLUSTER"], f"{node}.pid").read_text())


@pytest.mark.parametrize("words", [[], ["up"], ["up", "many"], ["up", "2", "two"], ["lose"], ["stop"]])
def test_says_how_it_is_used(words: list[str], tmp_path: Path) -> None:
    found = shell([SCRIPT, *words], own_environment(tmp_path) | {"FEDRAY_CLUSTER": str(tmp_path / "c")})
    assert found.returncode == 2
    assert "usage:" in found.stderr
    assert not (tmp_path / "c").exists()


def test_down_without_a_cluster_is_no_error(tmp_path: Path) -> None:
    found = shell([SCRIPT, "down"], own_environment(tmp_path) | {"FEDRAY_CLUSTER": str(tmp_path / "c")})
    assert (found.returncode, found.stderr) == (0, "")


def test_down_leaves_a_process_alone_that_has_only_the_number(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "1.pid").write_text(str(other.pid))
        shell([SCRIPT, "down"], own_environment(tmp_path) | {"FEDRAY_CLUSTER": str(tmp_path)})
        assert other.poll() is None
        other.kill()


@pytest.mark.slow
@pytest.mark.ray
def test_the_token_is_private_and_needed(three: dict[str, str]) -> None:
    token = Path(three["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    for others in [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}]:
        found = shell(["ray", "status", "--address", three["RAY_ADDRESS"]], three | others)
        assert found.returncode != 0
        assert "Active" not in found.stdout
    assert shell(["ray", "status", "--address", three["RAY_ADDRESS"]], three).stdout.count(" node_") == 3
    listening = subprocess.run(["ss", "-ltnp"], text=True, capture_output=True, check=False).stdout
    assert ":8265" not in listening or "dashboard" not in listening


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_survives_the_loss_of_a_node_which_then_comes_back(three: dict[str, str], tmp_path: Path) -> None:
    spec = write_space(tmp_path / "tiny.yaml", rounds=12)
    more = ["partition.clients=4", "resources.clients_per_actor=1", "resources.cpus_per_client=1"]
    command = ["fedray", "run", str(spec), *more, "--results", str(tmp_path / "results")]
    with subprocess.Popen(command, env=three, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "round 3/12" in line:
                lost = leader(three, 3)
                assert shell([SCRIPT, "lose", "3"], three).returncode == 0
                break
        rest = run.stdout.read()
    assert run.returncode == 0, rest
    assert (tmp_path / "results" / "tiny" / "DONE").exists()
    assert session(lost) == []
    assert "node 3: lost" in shell([SCRIPT, "status"], three).stdout
    assert shell([SCRIPT, "up", "3"], three).returncode == 0
    assert "lost" not in shell([SCRIPT, "status"], three).stdout


@pytest.mark.slow
@pytest.mark.ray
def test_down_stops_all_that_was_started_and_nothing_else() -> None:
    with cluster(2) as environment, subprocess.Popen(["sleep", "120"], start_new_session=True) as other:
        leaders = [leader(environment, node) for node in (1, 2)]
        assert all(session(number) for number in leaders)
        assert shell([SCRIPT, "down"], environment).returncode == 0
        for _ in range(50):
            if not any(session(number) for number in leaders):
                break
            time.sleep(0.2)
        assert [session(number) for number in leaders] == [[], []]
        assert other.poll() is None
        os.kill(other.pid, signal.SIGTERM)
