"""Network traffic of the driver's host per round, by number of nodes and of clients.

    sudo .venv/bin/python benchmarks/bytes_per_round.py                     # needs root and network namespaces
    sudo .venv/bin/python benchmarks/bytes_per_round.py --nodes 1 3 --clients 6 48 --rounds 12

The driver's host trains no client, so that all traffic of clients passes its network interface, whose counters are
read. The traffic of a round is the mean over all rounds but the first three; that of the start is measured until the
end of the first round. The global model goes to each node once, from the driver's host or from another node.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.cluster import Cluster
from helpers.hosts import Hosts, missing_requirement

SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 1200, "test_limit": 60, "size": 32},
    "partition": {"kind": "iid"},
    "proxy": {"name": "cnn"},
    "training": {"batch_size": 16, "optimizer": {"lr": 0.05}},
    "evaluation": {"every": 1},
    "resources": {"cpus_per_client": 1},
}
WARM_UP_ROUNDS = 3
"""Rounds not counted, in which actors and node reducers start."""


@dataclass(frozen=True)
class Traffic:
    """Bytes in and out of the driver's host."""

    nodes: int
    clients: int
    start_out: int
    round_in: float
    round_out: float
    proxy: int  # bytes of a proxy's weights


def main() -> None:
    options = arguments()
    if reason := missing_requirement():
        raise SystemExit(reason)
    with Hosts(1 + max(options.nodes)) as hosts:
        cluster = Cluster(hosts, cpus=2, head_cpus=0).start()
        joined, measured = 0, list[Traffic]()
        for nodes in sorted(options.nodes):
            while joined < nodes:
                joined += 1
                cluster.join(joined)
            for clients in options.clients:
                measured.append(measure(cluster, nodes, clients, options.rounds))
                print(line(measured[-1]), file=sys.stderr, flush=True)
    report(measured)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clients", type=int, nargs="+", default=[6, 12, 24, 48])
    parser.add_argument("--rounds", type=int, default=12)
    return parser.parse_args()


def measure(cluster: Cluster, nodes: int, clients: int, rounds: int) -> Traffic:
    """Run `rounds` rounds and read the counters at the end of each."""
    folder = cluster.hosts.shared / f"{nodes}-{clients}"
    folder.mkdir()
    spec = folder / "spec.yaml"
    changes = {"partition": {"clients": clients}, "training": {"rounds": rounds}}
    spec.write_text(yaml.safe_dump({name: {**value, **changes.get(name, {})} for name, value in SPEC.items()}))
    before = counters(cluster)
    counts = counters_after_rounds(cluster, cluster.popen("run", spec, "--results", folder), rounds)
    counted = counts[WARM_UP_ROUNDS - 1 :]
    return Traffic(
        nodes, clients, counts[0][1] - before[1], per_round(counted, 0), per_round(counted, 1), proxy(folder)
    )


def counters(cluster: Cluster) -> tuple[int, int]:
    """Return the bytes in and out of the driver's host."""
    return cluster.hosts[0].bytes_in, cluster.hosts[0].bytes_out


def counters_after_rounds(cluster: Cluster, run: "subprocess.Popen[str]", rounds: int) -> list[tuple[int, int]]:
    """Return the counters after each round. Raises SystemExit with the output of a run that fails."""
    counts, output = list[tuple[int, int]](), list[str]()
    assert run.stdout is not None
    for text in run.stdout:
        output.append(text)
        if f"round {len(counts) + 1}/{rounds}" in text:
            counts.append(counters(cluster))
    if run.wait() != 0 or len(counts) != rounds:
        raise SystemExit("".join(output))
    return counts


def per_round(counts: Sequence[tuple[int, int]], direction: int) -> float:
    """Return the mean increase between rounds; direction 0 is in, 1 is out."""
    return (counts[-1][direction] - counts[0][direction]) / (len(counts) - 1)


def proxy(folder: Path) -> int:
    """Return the size of the weights file, which includes a short header."""
    return (folder / "spec" / "model.safetensors").stat().st_size


def line(traffic: Traffic) -> str:
    rounds = f"{traffic.round_in / traffic.proxy:6.1f} in {traffic.round_out / traffic.proxy:6.1f} out"
    return (
        f"{traffic.nodes} nodes {traffic.clients:3} clients: {rounds} per round, in units of one proxy; "
        f"{traffic.start_out / 1e6:.1f} MB out until the first round ended"
    )


def report(measured: Sequence[Traffic]) -> None:
    for title, value in TABLES.items():
        print(f"\n{title}\n")
        clients = sorted({traffic.clients for traffic in measured})
        print("| nodes | " + " | ".join(f"{number} clients" for number in clients) + " |")
        print("| --- |" + " --- |" * len(clients))
        for nodes in sorted({traffic.nodes for traffic in measured}):
            print(f"| {nodes} | " + " | ".join(value(traffic) for traffic in measured if traffic.nodes == nodes) + " |")
    print(f"\none proxy: {measured[0].proxy / 1e3:.0f} kB")


TABLES: Mapping[str, Callable[[Traffic], str]] = {
    "kB into the driver's host per round": lambda traffic: f"{traffic.round_in / 1e3:,.0f}",
    "kB out of the driver's host per round": lambda traffic: f"{traffic.round_out / 1e3:,.0f}",
    "kB out of the driver's host until the end of the first round": lambda traffic: f"{traffic.start_out / 1e3:,.0f}",
}


if __name__ == "__main__":
    main()
