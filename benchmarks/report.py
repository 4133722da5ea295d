"""How long `fedray report` takes for a large study, and how much memory, beside one of a tenth of its trials.

    python benchmarks/report.py [--trials 1000] [--rounds 600] [--repeats 3]

Trials are made up: five settings on ten conditions with as many seeds as there is room for, ten clients, ten classes.
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
from fedray.results.writer import CLASSES_COLUMNS, CLIENTS_COLUMNS, CONFUSION_COLUMNS, ROUNDS_COLUMNS

STRATEGIES = [{"name": "fedavg"}, {"name": "fedprox"}, *({"name": "fedlpfm", "lam": lam} for lam in (0.25, 0.5, 1.0))]
ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 5.0, 10.0)
PARTS = 10  # clients, and classes


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
    """Seconds of the whole command, and the megabytes it held at most."""
    command = [sys.executable, "-m", "fedray", "report", str(folder / study), "--out", str(folder / f"{study}-report")]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def write_study(root: Path, trials: int, rounds: int) -> None:
    """Trials whose tables are as long as real ones."""
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
    """rounds.csv: rises to a level that strategy and α decide, and swings about it."""
    level = 0.5 + 0.1 * np.log10(alpha) + 0.1 * (strategy["name"] == "fedlpfm")
    steps = np.arange(1, rounds + 1)
    accuracy = level * (1 - np.exp(-steps / 50)) + np.random.default_rng(number).normal(0, 0.01, rounds)
    columns = dict.fromkeys(ROUNDS_COLUMNS, 1.0) | {
        "round": steps,
        "test_accuracy": accuracy.clip(0, 1),
        "failed_clients": 0,
        "retried": "",
    }
    asked = 1000 * (strategy["name"] == "fedlpfm")
    return pd.DataFrame(
        columns | {"worst_class_accuracy": 0.1, "rare_class_accuracy": 0.2, "teacher_outputs_used": asked}
    )


def shared_tables(rounds: int) -> dict[str, pd.DataFrame]:
    """The tables that need not differ between trials."""
    grid = pd.DataFrame(list(product(range(1, rounds + 1), range(PARTS))), columns=["round", "part"])
    some = np.random.default_rng(0).random(len(grid)).round(4)
    texts = {"node": "here", "device": "cpu", "failure": ""}
    clients = grid.rename(columns={"part": "client"}).assign(
        train_accuracy=some, examples=100, update_norm=1.0, **texts
    )
    classes = grid.rename(columns={"part": "class"}).assign(
        class_name=grid["part"].map("class {}".format), test_accuracy=some
    )
    pairs = pd.DataFrame(list(product([rounds], range(PARTS), range(PARTS))), columns=list(CONFUSION_COLUMNS[:3]))
    held = pd.DataFrame({f"class {label}": range(PARTS) for label in range(PARTS)})
    return {
        "clients.csv": clients.reindex(columns=list(CLIENTS_COLUMNS)),
        "classes.csv": classes.assign(examples=100).reindex(columns=list(CLASSES_COLUMNS)),
        "partition.csv": pd.concat(
            [pd.DataFrame({"client": range(PARTS), "examples": held.sum(axis=1)}), held], axis=1
        ),
        "confusion-proxy.csv": pairs.assign(examples=10),
        "confusion-teacher.csv": pairs.assign(examples=10),
    }


if __name__ == "__main__":
    main()
