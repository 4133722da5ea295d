"""Overhead of fedray per client of a round, and memory, by the number of clients.

    .venv/bin/python benchmarks/scale.py
    .venv/bin/python benchmarks/scale.py --clients 10 1000 --rounds 3 --repeats 1
    .venv/bin/python benchmarks/scale.py --clients 1000 --strategy fml   # clients with private models
    .venv/bin/python benchmarks/scale.py --soak 500      # growth of memory over 500 rounds

Every round trains on the same 10,000 digits of 4x4 pixels on one actor, shared by 10 to 10,000 clients. Each call of
`local_update` is timed. The overhead per client of a round is (seconds of the round - seconds in `local_update`) /
clients; it includes checkpoint and tables. The table has medians over all rounds but each run's first, and the range of
the runs' medians. Memory is the PSS of driver and actor after the last round. Linux only.
"""

import argparse
import io
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import ray
import yaml

import fedray
from fedray.backends.ray.actors import RayBackend
from fedray.config.experiment import Experiment
from fedray.server.driver import Driver
from fedray.training.local_update import local_update
from fedray.workers import worker
from fedray.workers.requests import TrainClients
from fedray.workers.worker import Worker

DIGITS = 10_000
ROLES = {"ray::DriverHolder": "driver", "ray::DriverActor": "driver", "ray::WorkerActor": "actor"}


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        if options.soak:
            soak(options.soak, Path(folder))
            return
        digits = write_digits(Path(folder) / "digits.parquet")
        print("clients         ms per client     s/round, of which SGD   driver MB   actor MB", flush=True)
        for clients in options.clients:
            measured = [measure(spec(digits, clients, options)) for _ in range(options.repeats)]
            overhead, whole, sgd, driver, actor = zip(*measured, strict=True)
            print(
                f"{clients:7,}   {spread(overhead):>20}   "
                f"{statistics.median(whole):9.2f} {statistics.median(sgd):13.2f}   "
                f"{statistics.median(driver):9.0f}   {statistics.median(actor):8.0f}",
                flush=True,
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of a run; the first is not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--strategy", default="fedavg", choices=["fedavg", "fedprox", "fml"])
    parser.add_argument("--soak", type=int, metavar="ROUNDS")
    return parser.parse_args()


def write_digits(file: Path) -> Path:
    """Write scikit-learn's digits, repeated up to 10,000 images, as a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    indices = np.arange(DIGITS) % len(digits.target)
    images = []
    for image in np.round(digits.images * (255 / 16)).astype(np.uint8):
        Image.fromarray(image).save(target := io.BytesIO(), format="png")
        images.append({"bytes": target.getvalue(), "path": None})
    pq.write_table(pa.table({"image": [images[i] for i in indices], "label": digits.target[indices]}), file)
    return file


def spec(digits: Path, clients: int, options: argparse.Namespace) -> Experiment:
    return Experiment.model_validate(
        {
            "data": {"train": f"parquet:{digits}", "test": f"parquet:{digits}", "test_limit": 100, "size": 4},
            "partition": {"kind": "iid", "clients": clients},
            "training": {"rounds": options.rounds, "batch_size": 50, "optimizer": {"lr": 0.001}},
            "strategy": {"name": options.strategy},
            "resources": {"clients_per_actor": clients},
        }
    )


class TimedWorker(Worker):
    """A worker whose updates report the seconds in `local_update` instead of the client's total."""

    def handle(self, request: Any) -> Any:
        seconds = list[float]()

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            metrics = local_update(*arguments, **options)
            seconds.append(time.perf_counter() - start)
            return metrics

        worker.local_update = timed
        result = super().handle(request)
        if not isinstance(request, TrainClients):
            return result
        timed_updates = zip(result.value, seconds, strict=True)
        return replace(result, value=[replace(update, seconds=sgd) for update, sgd in timed_updates])


class Measurement(NamedTuple):
    """Medians over the rounds of a run, and memory at its end."""

    overhead: float  # ms per client
    seconds: float
    sgd: float
    driver: float  # MB
    actor: float


def measure(experiment: Experiment) -> Measurement:
    """Start Ray, run the experiment and stop Ray."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        driver = ray.remote(DriverHolder).options(num_cpus=0).remote(experiment, folder)
        whole = [ray.get(driver.round.remote()) for _ in range(experiment.training.rounds)]
        memory = pss()
        table = pd.read_csv(Path(folder) / "clients.csv")
        ray.get(driver.end.remote())
    ray.shutdown()
    sgd = table.groupby("round")["seconds"].sum().to_numpy()
    overhead = (np.array(whole) - sgd)[1:] / len(set(table["client"])) * 1000
    return Measurement(float(np.median(overhead)), statistics.median(whole[1:]), float(np.median(sgd[1:])), *memory)


class DriverHolder:
    """An actor that holds a driver, as in `fedray run`."""

    def __init__(self, experiment: Experiment, folder: str) -> None:
        self._run = Driver(experiment, Path(folder), partial(RayBackend, worker=TimedWorker)).run()

    def round(self) -> float:
        return float(next(self._run).row["seconds"])

    def end(self) -> None:
        self._run.close()


def pss() -> tuple[float, float]:
    """Return the PSS in MB of the driver and of the actor."""
    largest = dict.fromkeys(ROLES.values(), 0.0)
    for process, role in roles():
        rollup = (process / "smaps_rollup").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        largest[role] = max(largest[role], kilobytes / 1000)
    return largest["driver"], largest["actor"]


def roles() -> Iterator[tuple[Path, str]]:
    """Yield the descendants of this process that are drivers or actors, with their role."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # the process may have ended
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(") ")[2].split()[1])
    for number in parents:
        ancestor = number
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        with suppress(OSError, IndexError):  # the process may have ended
            name = (Path("/proc") / str(number) / "cmdline").read_text().partition("\0")[0]
            if ancestor == os.getpid() and (role := ROLES.get(name.strip().partition(".")[0])):
                yield Path("/proc") / str(number), role


def soak(rounds: int, folder: Path) -> None:
    """Print memory of driver and actor at the start, middle and end, and its growth after the first tenth."""
    sections: dict[str, Any] = yaml.safe_load(SOAK.format(rounds=rounds))
    memory: dict[str, list[tuple[int, float]]] = {"driver": [], "actor": []}
    for event in fedray.rounds(Experiment.model_validate(sections), folder):
        if event.round % max(1, rounds // 50) == 0:
            for points, megabytes in zip(memory.values(), pss(), strict=True):
                points.append((event.round, megabytes))
    for role, points in memory.items():
        late = np.array(points[len(points) // 10 :])
        slope = np.polyfit(late[:, 0], late[:, 1], 1)[0]
        middle = points[len(points) // 2]
        print(
            f"{role}: {points[0][1]:.1f} MB after round {points[0][0]}, {middle[1]:.1f} after {middle[0]}, "
            f"{points[-1][1]:.1f} after {points[-1][0]}; {1000 * slope:+.2f} kB per round"
        )


SOAK = """
partition: {{kind: iid, clients: 20}}
training: {{rounds: {rounds}, batch_size: 32, participation: 0.5}}
evaluation: {{batch_size: 100}}
resources: {{clients_per_actor: 20}}
"""


def spread(values: Sequence[float]) -> str:
    """Return median, minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
