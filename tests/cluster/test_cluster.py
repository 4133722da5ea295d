"""fedray on three hosts ends in the same weights as in one process, even if hosts are lost or join.

Each test starts with three hosts; the fixture repairs the damage of the test before.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers.cluster import Cluster, wait
from helpers.hosts import Hosts, missing_requirement

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(missing_requirement() is not None, reason=missing_requirement() or ""),
]

SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 400, "test_limit": 60, "public_fraction": 0.2},
    "partition": {"kind": "dirichlet", "alpha": 0.5, "clients": 6, "min_examples": 5},
    "proxy": {"name": "cnn", "norm": "batch"},
    "teacher": {"kind": "supervised", "epochs": 2},
    "training": {"rounds": 12, "batch_size": 16, "optimizer": {"lr": 0.05}},
    "resources": {"cpus_per_client": 1},
}
NODES = {"host1", "host2", "host3"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Hosts(3) as hosts:
        yield Cluster(hosts).start(1, 2)


@pytest.fixture
def three_hosts(cluster: Cluster) -> Cluster:
    return cluster.repair()


@pytest.fixture
def shared(three_hosts: Cluster, request: pytest.FixtureRequest) -> Path:
    """Return a folder of this test that all hosts share."""
    folder = three_hosts.hosts.shared / str(request.node.name)
    folder.mkdir()
    return folder


def write_spec(folder: Path, space: dict[str, Any] | None = None, **sections: Any) -> Path:
    """Write a spec, or a space, with changes by section and return its path."""
    spec = {name: {**SPEC.get(name, {}), **sections.get(name, {})} for name in SPEC.keys() | sections.keys()}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"base": spec, "space": space} if space else spec))
    return path


def run_serially(spec: Path, *overrides: str, command: str = "run") -> Path:
    """Run a spec in one process and return the folder of its results."""
    folder = spec.parent / "serial"
    environment = os.environ | {"FEDRAY_CACHE": str(spec.parent / "serial-cache")}
    words = [command, spec, "resources.backend=serial", *overrides, "--results", folder, "--quiet"]
    subprocess.run([sys.executable, "-m", "fedray", *map(str, words)], check=True, env=environment, capture_output=True)
    return folder / spec.stem


def read_weights(results: Path) -> dict[str, bytes]:
    """Return the weights file of each run by its path."""
    weights = {file.relative_to(results).as_posix(): file.read_bytes() for file in results.rglob("model.safetensors")}
    assert weights, f"no run in {results} has finished"
    return weights


def read_table(run: Path, name: str = "clients") -> pd.DataFrame:
    """Return a table of a run, empty if there is none yet."""
    try:
        return pd.read_csv(run / f"{name}.csv")
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame({"round": [], "node": []})


def read_until(line: str, process: "subprocess.Popen[str]") -> str:
    """Read the output of a process up to the first line that contains `line`, and return that line."""
    output: list[str] = []
    assert process.stdout is not None
    for printed in process.stdout:
        output.append(printed)
        if line in printed:
            return printed
    raise AssertionError(f"'{line}' is not in the output: {''.join(output)}")


def wait_for_success(process: "subprocess.Popen[str]") -> str:
    """Wait until a process exits with 0 and return the rest of its output."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return str(output)


def test_wrong_token_is_refused_in_one_line(three_hosts: Cluster, shared: Path) -> None:
    wrong = {"RAY_AUTH_TOKEN": "0" * 64}
    result = three_hosts.fedray("run", write_spec(shared), "--results", shared / "results", env=wrong)
    assert result.returncode == 2, result.stdout
    assert f"the Ray cluster at RAY_ADDRESS={three_hosts.address} requires a token" in result.stdout
    assert "Traceback" not in result.stdout


def test_three_hosts_give_the_weights_of_one_process(three_hosts: Cluster, shared: Path) -> None:
    spec = write_spec(shared, strategy={"name": "fedlpfm"})
    result = three_hosts.fedray("run", spec, "--results", shared / "results")
    assert result.returncode == 0, result.stdout
    assert read_weights(shared / "results" / "tiny") == read_weights(run_serially(spec))
    assert set(read_table(shared / "results" / "tiny")["node"]) == NODES


def test_only_the_host_of_the_command_has_the_results(three_hosts: Cluster, shared: Path) -> None:
    result = three_hosts.fedray("run", write_spec(shared), "training.rounds=2", "--results", "/tmp/results")
    assert result.returncode == 0, result.stdout
    assert three_hosts.hosts[0].run(["ls", "/tmp/results/tiny/model.safetensors"]).returncode == 0
    for other in (1, 2):
        assert three_hosts.hosts[other].run(["ls", "/tmp/results"]).returncode != 0


@pytest.mark.parametrize("strategy", ["fedavg", "fml"])
def test_lost_host_does_not_change_the_weights(three_hosts: Cluster, shared: Path, strategy: str) -> None:
    spec = write_spec(shared, strategy={"name": strategy})
    run = three_hosts.popen("run", spec, "--results", shared / "results")
    read_until("round 3/", run)
    three_hosts.lose(2)
    wait_for_success(run)
    clients = read_table(shared / "results" / "tiny")
    assert set(clients[clients["round"] <= 3]["node"]) == NODES
    assert set(clients[clients["round"] == 12]["node"]) == NODES - {"host3"}
    assert read_weights(shared / "results" / "tiny") == read_weights(run_serially(spec))


def test_host_that_joins_later_is_used(three_hosts: Cluster, shared: Path) -> None:
    from fedray.models.weights import WeightsFile
    from fedray.results import checkpoint

    three_hosts.leave(2)
    spec, results = write_spec(shared, training={"rounds": 2000}), shared / "results" / "tiny"
    run = three_hosts.popen("run", spec, "--results", shared / "results")
    read_until("round 3/", run)
    assert set(read_table(results)["node"]) == NODES - {"host3"}
    three_hosts.join(2)
    wait(lambda: "host3" in set(read_table(results)["node"]))
    three_hosts.signal(run, signal.SIGTERM)
    wait_for_success(run)
    saved = checkpoint.load(results / "checkpoint")
    assert saved is not None
    state = saved[0]
    WeightsFile(results / "model.safetensors").write(state.weights)
    assert read_weights(results) == read_weights(run_serially(spec, f"training.rounds={state.round}"))


def test_sigterm_saves_rounds_and_resume_continues_after_them(three_hosts: Cluster, shared: Path) -> None:
    spec, results = write_spec(shared, strategy={"name": "fml"}), shared / "results" / "tiny"
    run = three_hosts.popen("run", spec, "--results", shared / "results")
    read_until("round 4/", run)
    three_hosts.signal(run, signal.SIGTERM)
    assert "SIGTERM" in wait_for_success(run)
    assert not (results / "DONE").exists()
    finished = len(read_table(results, "rounds"))
    assert 4 <= finished < 12
    result = three_hosts.fedray("run", spec, "--results", shared / "results", "--resume")
    assert result.returncode == 0, result.stdout
    assert f"round {finished + 1}/12" in result.stdout
    assert "round 1/12" not in result.stdout
    assert (results / "DONE").exists()
    assert read_weights(results) == read_weights(run_serially(spec))


SPACE = {"strategy.name": {"grid": ["fedavg", "fml"]}, "seed": {"grid": [0, 1]}}


def test_sweep_continues_when_a_host_is_lost(three_hosts: Cluster, shared: Path) -> None:
    spec, results = write_spec(shared, SPACE, training={"rounds": 30}), shared / "results" / "tiny"

    def hosts_in_use() -> set[str]:
        """Return the hosts of all rounds from the third, when losing one costs finished rounds."""
        tables = [read_table(folder) for folder in results.glob("*/")]
        return {node for table in tables if not table.empty for node in table[table["round"] >= 3]["node"]}

    sweep = three_hosts.popen("sweep", spec, "--results", shared / "results")
    wait(lambda: "host3" in hosts_in_use())
    three_hosts.lose(2)
    wait_for_success(sweep)
    assert (results / "DONE").exists()
    weights = read_weights(results)
    assert len(weights) == 4
    assert sorted(weights.values()) == sorted(read_weights(run_serially(spec)).values())


def test_sweep_requires_a_shared_results_folder(three_hosts: Cluster, shared: Path) -> None:
    result = three_hosts.fedray("sweep", write_spec(shared, SPACE), "--results", "/tmp/sweep")
    assert result.returncode == 2, result.stdout
    assert "Traceback" not in result.stdout
    errors = [line for line in result.stdout.splitlines() if line.startswith("fedray: ")]
    assert len(errors) == 1, result.stdout
    assert "choose a --results that all nodes share" in errors[0]
    assert "/tmp/sweep" in errors[0]
