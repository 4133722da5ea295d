"""What crosses the network in a round, as the driver's host sees it: by nodes and by clients.

    sudo .venv/bin/python benchmarks/bytes_per_round.py                     # needs root and network namespaces
    sudo .venv/bin/python benchmarks/bytes_per_round.py --nodes 1 3 --clients 6 48 --rounds 12

The driver's host trains nothing, so that every client is behind its wire; what is counted is what its interface
counts. A round is the mean of all but the first three; what came before the first round's end is the start. What goes
out once goes to each node once, but a node may have it from another that has it already.
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
    "training": {"batch_size": 16, "lr": 0.05},
    "evaluation": {"every": 1},
    "resources": {"cpus_per_client": 1},
}
SETTLING = 3
"""Rounds in which actors, and what adds up for them, come up."""


@dataclass(frozen=True)
class Counted:
    nodes: int
    clients: int
    start_out: int
    round_in: float
    round_out: float
    proxy: int  # bytes of one proxy's weights


def main() -> None:
    options = arguments()
    if reason := missing_requirement():
        raise SystemExit(reason)
    with Hosts(1 + max(options.nodes)) as hosts:
        cluster = Cluster(hosts, cpus=2, head_cpus=0).start()
        joined, counted = 0, list[Counted]()
        for nodes in sorted(options.nodes):
            while joined < nodes:
                joined += 1
                cluster.join(joined)
            for clients in options.clients:
                counted.append(count(cluster, nodes, clients, options.rounds))
                print(line(counted[-1]), file=sys.stderr, flush=True)
    report(counted)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clients", type=int, nargs="+", default=[6, 12, 24, 48])
    parser.add_argument("--rounds", type=int, default=12)
    return parser.parse_args()


def count(cluster: Cluster, nodes: int, clients: int, rounds: int) -> Counted:
    """Run it, and read the counters as each round is done."""
    folder = cluster.hosts.shared / f"{nodes}-{clients}"
    folder.mkdir()
    spec = folder / "spec.yaml"
    more = {"partition": {"clients": clients}, "training": {"rounds": rounds}}
    spec.write_text(yaml.safe_dump({name: {**value, **more.get(name, {})} for name, value in SPEC.items()}))
    before = counters(cluster)
    read = follow(cluster, cluster.popen("run", spec, "--results", folder), rounds)
    settled = read[SETTLING - 1 :]
    return Counted(nodes, clients, read[0][1] - before[1], per_round(settled, 0), per_round(settled, 1), proxy(folder))


def counters(cluster: Cluster) -> tuple[int, int]:
    return cluster.hosts[0].bytes_in, cluster.hosts[0].bytes_out


def follow(cluster: Cluster, run: "subprocess.Popen[str]", rounds: int) -> list[tuple[int, int]]:
    """The counters after each round."""
    read, said = list[tuple[int, int]](), list[str]()
    assert run.stdout is not None
    for each in run.stdout:
        said.append(each)
        if f"round {len(read) + 1}/{rounds}" in each:
            read.append(counters(cluster))
    if run.wait() != 0 or len(read) != rounds:
        raise SystemExit("".join(said))
    return read


def per_round(read: Sequence[tuple[int, int]], which: int) -> float:
    return (read[-1][which] - read[0][which]) / (len(read) - 1)


def proxy(folder: Path) -> int:
    """Its file has a short header, too."""
    return (folder / "spec" / "model.safetensors").stat().st_size


def line(one: Counted) -> str:
    rounds = f"{one.round_in / one.proxy:6.1f} in {one.round_out / one.proxy:6.1f} out"
    return (
        f"{one.nodes} nodes {one.clients:3} clients: {rounds} a round in proxies; {one.start_out / 1e6:.1f} MB to begin"
    )


def report(counted: Sequence[Counted]) -> None:
    for title, value in TABLES.items():
        print(f"\n{title}\n")
        clients = sorted({one.clients for one in counted})
        print("| nodes | " + " | ".join(f"{each} clients" for each in clients) + " |")
        print("| --- |" + " --- |" * len(clients))
        for nodes in sorted({one.nodes for one in counted}):
            print(f"| {nodes} | " + " | ".join(value(one) for one in counted if one.nodes == nodes) + " |")
    print(f"\none proxy: {counted[0].proxy / 1e3:.0f} kB")


TABLES: Mapping[str, Callable[[Counted], str]] = {
    "kB into the driver's host per round": lambda one: f"{one.round_in / 1e3:,.0f}",
    "kB out of the driver's host per round": lambda one: f"{one.round_out / 1e3:,.0f}",
    "kB out of the driver's host until the first round is done": lambda one: f"{one.start_out / 1e3:,.0f}",
}


if __name__ == "__main__":
    main()
