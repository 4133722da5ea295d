"""Seconds per round, by number of nodes and of clients, on Ray nodes that share this machine.

    .venv/bin/python benchmarks/scaling.py
    .venv/bin/python benchmarks/scaling.py --nodes 1 2 --clients 10 1000 --rounds 8

Each Ray node has one CPU, but all nodes share the cores of this machine: more nodes than cores cannot be faster. The
training work of a round does not depend on the number of clients, so an increase with clients is overhead of fedray.
The settings run in turn, three times. The table has the median over all rounds but each run's first, and the range of
the three runs' medians.
"""

import argparse
import logging
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from fedray.config.experiment import Experiment
from fedray.server.driver import Driver

SPEC: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits"},
    "proxy": {"name": "cnn"},
    "training": {"batch_size": 1, "optimizer": {"lr": 0.01}},
    "evaluation": {"every": 1000},
    "checkpoint": {"every": 1000},
}
"""Batches of one example, so that the number of steps does not depend on the partition."""


def main() -> None:
    options = arguments()
    seconds: dict[tuple[int, int], list[list[float]]] = {}
    for _ in range(options.repeats):
        for nodes in options.nodes:
            cluster = start_cluster(nodes)
            for clients in options.clients:
                seconds.setdefault((nodes, clients), []).append(rounds(clients, options.rounds))
            ray.shutdown()
            cluster.shutdown()
    show(seconds, options.nodes, options.clients)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def start_cluster(nodes: int) -> Cluster:
    """Start a Ray cluster of nodes with one CPU each, and connect to it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    return cluster


def rounds(clients: int, number: int) -> list[float]:
    """Return the seconds of each round but the first."""
    spec = {**SPEC, "partition": {"kind": "iid", "clients": clients}}
    spec["training"] = {**SPEC["training"], "rounds": number}
    with tempfile.TemporaryDirectory() as folder:
        results = Driver(Experiment.model_validate(spec), Path(folder)).run()
        return [result.row["seconds"] for result in results][1:]


def show(seconds: dict[tuple[int, int], list[list[float]]], nodes: Sequence[int], clients: Sequence[int]) -> None:
    """Print a row per number of nodes and a column per number of clients."""
    print("s/round".ljust(9) + "".join(f"{count:,} clients".rjust(22) for count in clients))
    for node in nodes:
        cells = []
        for count in clients:
            repeats = seconds[node, count]
            medians = [statistics.median(values) for values in repeats]
            middle = statistics.median(value for values in repeats for value in values)
            cells.append(f"{middle:.2f} ({min(medians):.2f}-{max(medians):.2f})".rjust(22))
        print(f"{node} node{'s' if node > 1 else ''}".ljust(9) + "".join(cells))


if __name__ == "__main__":
    main()
