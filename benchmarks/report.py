"""Time and memory of `fedray report` for a large study, compared with one of a tenth of its trials.

    python benchmarks/report.py [--trials 1000] [--rounds 600] [--repeats 3]

The trials are synthetic: five settings, ten conditions, ten clients, ten classes, and as many seeds as needed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from fedray.config.experiment import Experiment
from fedray.config.yaml_files import to_yaml
from fedray.results.writer import CLASSES_COLUMNS, CLIENTS_COLUMNS, CONFUSION_COLUMNS, PARTITION_COLUMNS, ROUNDS_COLUMNS

STRATEGIES = [{"name": "fedavg"}, {"name": "fedprox"}, *({"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5, 1.0))]
ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 5.0, 10.0)
COUNT = 10  # of clients and of classes


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=600)
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"large": chosen.trials, "tenth": max(chosen.trials // 10, 1)}
        for name, trials in sizes.items():
            write_study(Path(folder) / name, trials, chosen.rounds)
        measured = {name: [measure(Path(folder), name) for _ in range(chosen.repeats)] for name in sizes}
    for name, runs in measured.items():
        seconds, megabytes = zip(*runs, strict=True)
        print(
            f"{sizes[name]:,} trials x {chosen.rounds} rounds: {statistics.median(seconds):.1f} s "
            f"({min(seconds):.1f} to {max(seconds):.1f}), peak {statistics.median(megabytes):.0f} MB"
        )


def measure(folder: Path, study: str) -> tuple[float, float]:
    """Return the seconds and the peak memory (MB) of the command."""
    command = [sys.executable, "-m", "fedray", "report", str(folder / study), "--out", str(folder / f"{study}-report")]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def write_study(root: Path, trials: int, rounds: int) -> None:
    """Write trials whose tables are as long as real ones."""
    cells = list(product(STRATEGIES, ALPHAS))
    tables = {name: frame.to_csv(index=False) for name, frame in shared_tables(rounds).items()}
    for number in range(trials):
        strategy, alpha = cells[number % len(cells)]
        folder = root / f"trial-{number}"
        folder.mkdir(parents=True)
        spec = Experiment.model_validate(
            {
                "seed": number // len(cells), "strategy": strategy, "training": {"rounds": rounds},
                "partition": {"kind": "dirichlet", "alpha": alpha},
                "teacher": {"kind": "zero_shot", "model": "ViT-B-32"},
            }
        )  # fmt: skip
        (folder / "spec.yaml").write_text(to_yaml(spec))
        curve(number, strategy, alpha, rounds).to_csv(folder / "rounds.csv", index=False)
        for name, text in tables.items():
            (folder / name).write_text(text)


def curve(number: int, strategy: dict[str, object], alpha: float, rounds: int) -> pd.DataFrame:
    """Return rounds.csv: a noisy curve to a level that depends on strategy and α."""
    level = 0.5 + 0.1 * np.log10(alpha) + 0.1 * (strategy["name"] == "fedlpfm")
    steps = np.arange(1, rounds + 1)
    accuracy = level * (1 - np.exp(-steps / 50)) + np.random.default_rng(number).normal(0, 0.01, rounds)
    columns = dict.fromkeys(ROUNDS_COLUMNS, 1.0) | {
        "round": steps,
        "test_accuracy": accuracy.clip(0, 1),
        "failed_clients": 0,
        "retried": "",
    }
    used = 1000 * (strategy["name"] == "fedlpfm")
    return pd.DataFrame(
        columns | {"worst_class_accuracy": 0.1, "rare_class_accuracy": 0.2, "teacher_outputs_used": used}
    )


def shared_tables(rounds: int) -> dict[str, pd.DataFrame]:
    """Return the tables that are equal for all trials."""
    grid = pd.DataFrame(list(product(range(1, rounds + 1), range(COUNT))), columns=["round", "index"])
    values = np.random.default_rng(0).random(len(grid)).round(4)
    texts = {"node": "here", "device": "cpu", "failure": ""}
    clients = grid.rename(columns={"index": "client"}).assign(
        train_accuracy=values, examples=100, update_norm=1.0, **texts
    )
    classes = grid.rename(columns={"index": "class"}).assign(
        class_name=grid["index"].map("class {}".format), test_accuracy=values
    )
    pairs = pd.DataFrame(list(product([rounds], range(COUNT), range(COUNT))), columns=list(CONFUSION_COLUMNS[:3]))
    cells = [(client, label, f"class {label}", 1 + client) for client in range(COUNT) for label in range(COUNT)]
    return {
        "clients.csv": clients.reindex(columns=list(CLIENTS_COLUMNS)),
        "classes.csv": classes.assign(examples=100).reindex(columns=list(CLASSES_COLUMNS)),
        "partition.csv": pd.DataFrame(cells, columns=list(PARTITION_COLUMNS)),
        "confusion-proxy.csv": pairs.assign(examples=10),
        "confusion-teacher.csv": pairs.assign(examples=10),
    }


if __name__ == "__main__":
    main()
