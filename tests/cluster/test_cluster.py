"""fedray over three hosts: the same bits as in one process, whatever happens to the hosts on the way.

Each test finds three hosts in the cluster. What it breaks, the next one's fixture mends.
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
from helpers.hosts import Hosts, why_not

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]

SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 400, "test_limit": 60, "public_fraction": 0.2},
    "partition": {"kind": "dirichlet", "alpha": 0.5, "clients": 6, "min_examples": 5},
    "proxy": {"name": "cnn", "norm": "batch"},
    "teacher": {"kind": "supervised", "epochs": 2},
    "training": {"rounds": 12, "batch_size": 16, "lr": 0.05},
    "resources": {"cpus_per_client": 1},
}
NODES = {"host1", "host2", "host3"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Hosts(3) as hosts:
        yield Cluster(hosts).start(1, 2)


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    return cluster.repair()


@pytest.fixture
def shared(three: Cluster, request: pytest.FixtureRequest) -> Path:
    """A folder of the test's own that all hosts have."""
    folder = three.hosts.shared / str(request.node.name)
    folder.mkdir()
    return folder


def written(folder: Path, space: dict[str, Any] | None = None, **sections: Any) -> Path:
    """A spec, or a space."""
    spec = {name: {**SPEC.get(name, {}), **sections.get(name, {})} for name in SPEC.keys() | sections.keys()}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"base": spec, "space": space} if space else spec))
    return path


def serially(spec: Path, *overrides: str, command: str = "run") -> Path:
    """Where the results of one process are."""
    folder = spec.parent / "serial"
    environment = os.environ | {"FEDRAY_CACHE": str(spec.parent / "serial-bank")}
    words = [command, spec, "resources.backend=serial", *overrides, "--results", folder, "--quiet"]
    subprocess.run([sys.executable, "-m", "fedray", *map(str, words)], check=True, env=environment, capture_output=True)
    return folder / spec.stem


def bits(results: Path) -> dict[str, bytes]:
    """The weights of each run."""
    found = {file.relative_to(results).as_posix(): file.read_bytes() for file in results.rglob("model.safetensors")}
    assert found, f"no run in {results} has ended"
    return found


def table(run: Path, name: str = "clients") -> pd.DataFrame:
    try:
        return pd.read_csv(run / f"{name}.csv")
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame({"round": [], "node": []})


def until(line: str, process: "subprocess.Popen[str]") -> str:
    """Read what it prints, to the first line that has this in it."""
    read: list[str] = []
    assert process.stdout is not None
    for each in process.stdout:
        read.append(each)
        if line in each:
            return each
    raise AssertionError(f"'{line}' was not printed, but: {''.join(read)}")


def ended(process: "subprocess.Popen[str]") -> str:
    """What it still prints, once it has ended well."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return str(said)


def test_a_wrong_token_is_refused_in_one_sentence(three: Cluster, shared: Path) -> None:
    wrong = {"RAY_AUTH_TOKEN": "0" * 64}
    found = three.fedray("run", written(shared), "--results", shared / "results", env=wrong)
    assert found.returncode == 2, found.stdout
    assert f"the Ray cluster at RAY_ADDRESS={three.address} does not let us in" in found.stdout
    assert "Traceback" not in found.stdout


def test_three_hosts_give_the_bits_of_one_process(three: Cluster, shared: Path) -> None:
    spec = written(shared, strategy={"name": "fedlpfm"})
    found = three.fedray("run", spec, "--results", shared / "results")
    assert found.returncode == 0, found.stdout
    assert bits(shared / "results" / "tiny") == bits(serially(spec))
    assert set(table(shared / "results" / "tiny")["node"]) == NODES


def test_only_the_host_of_the_command_needs_the_results(three: Cluster, shared: Path) -> None:
    found = three.fedray("run", written(shared), "training.rounds=2", "--results", "/tmp/results")
    assert found.returncode == 0, found.stdout
    assert three.hosts[0].run(["ls", "/tmp/results/tiny/model.safetensors"]).returncode == 0
    for other in (1, 2):
        assert three.hosts[other].run(["ls", "/tmp/results"]).returncode != 0


@pytest.mark.parametrize("strategy", ["fedavg", "fml"])
def test_a_host_that_is_lost_changes_no_bit(three: Cluster, shared: Path, strategy: str) -> None:
    spec = written(shared, strategy={"name": strategy})
    run = three.begin("run", spec, "--results", shared / "results")
    until("round 3/", run)
    three.lose(2)
    ended(run)
    clients = table(shared / "results" / "tiny")
    assert set(clients[clients["round"] <= 3]["node"]) == NODES
    assert set(clients[clients["round"] == 12]["node"]) == NODES - {"host3"}
    assert bits(shared / "results" / "tiny") == bits(serially(spec))


def test_a_host_that_joins_later_is_used(three: Cluster, shared: Path) -> None:
    from fedray.results import checkpoint

    three.leave(2)
    spec, results = written(shared, training={"rounds": 2000}), shared / "results" / "tiny"
    run = three.begin("run", spec, "--results", shared / "results")
    until("round 3/", run)
    assert set(table(results)["node"]) == NODES - {"host3"}
    three.join(2)
    wait(lambda: "host3" in set(table(results)["node"]))
    three.signal(run, signal.SIGTERM)
    ended(run)
    found = checkpoint.load(results / "checkpoint")
    assert found is not None
    state = found[0]
    checkpoint.save_weights(results / "model.safetensors", state.weights)
    assert bits(results) == bits(serially(spec, f"training.rounds={state.round}"))


def test_sigterm_keeps_what_resume_goes_on_from(three: Cluster, shared: Path) -> None:
    spec, results = written(shared, strategy={"name": "fml"}), shared / "results" / "tiny"
    run = three.begin("run", spec, "--results", shared / "results")
    until("round 4/", run)
    three.signal(run, signal.SIGTERM)
    assert "SIGTERM" in ended(run)
    assert not (results / "DONE").exists()
    kept = len(table(results, "rounds"))
    assert 4 <= kept < 12
    found = three.fedray("run", spec, "--results", shared / "results", "--resume")
    assert found.returncode == 0, found.stdout
    assert f"round {kept + 1}/12" in found.stdout
    assert "round 1/12" not in found.stdout
    assert (results / "DONE").exists()
    assert bits(results) == bits(serially(spec))


SPACE = {"strategy.name": {"grid": ["fedavg", "fml"]}, "seed": {"grid": [0, 1]}}


def test_a_sweep_goes_on_when_a_host_is_lost(three: Cluster, shared: Path) -> None:
    spec, results = written(shared, SPACE, training={"rounds": 30}), shared / "results" / "tiny"

    def hosts_in_use() -> set[str]:
        """In rounds well after the first, so that there is something to lose."""
        tables = [table(folder) for folder in results.glob("*/")]
        return {node for each in tables if not each.empty for node in each[each["round"] >= 3]["node"]}

    sweep = three.begin("sweep", spec, "--results", shared / "results")
    wait(lambda: "host3" in hosts_in_use())
    three.lose(2)
    ended(sweep)
    assert (results / "DONE").exists()
    found = bits(results)
    assert len(found) == 4
    assert sorted(found.values()) == sorted(bits(serially(spec)).values())


def test_a_sweep_says_that_its_results_must_be_shared(three: Cluster, shared: Path) -> None:
    found = three.fedray("sweep", written(shared, SPACE), "--results", "/tmp/sweep")
    assert found.returncode == 2, found.stdout
    assert "Traceback" not in found.stdout
    said = [line for line in found.stdout.splitlines() if line.startswith("fedray: ")]
    assert len(said) == 1, found.stdout
    assert "shared" in said[0]
    assert "/tmp/sweep" in said[0]
