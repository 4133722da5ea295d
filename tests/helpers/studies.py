"""Write result folders with metrics that a test chooses: real specs and columns, without training."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedray.config.experiment import Experiment
from fedray.config.yaml_files import to_yaml
from fedray.results.run_folder import FORMAT
from fedray.results.writer import (
    CLASSES_COLUMNS,
    CLIENT_ACCURACY_COLUMNS,
    CLIENTS_COLUMNS,
    PARTITION_COLUMNS,
    ROUNDS_COLUMNS,
    CsvTable,
    write_confusion,
)
from fedray.types import Row

TEACHER = {"kind": "zero_shot", "model": "ViT-B-32"}
CLASS_NAMES = ("cat", "dog", "ship")
PARTITION = ((60, 20, 0), (0, 30, 10), (5, 5, 90), (40, 0, 40))
"""Number of examples: [clients, classes]."""
TRAINED = {
    "clients": 4,
    "failed_clients": 0,
    "update_norm": 2.0,
    "update_drift": 3.0,
    "update_cosine": 0.5,
    "seconds": 1.5,
}
SENT = {"bytes_down": 4000, "bytes_up": 4000}
"""Columns of rounds.csv that have values in every round."""


def write_run(
    folder: Path,
    *,
    strategy: Mapping[str, Any] | None = None,
    seed: int = 0,
    alpha: float = 0.1,
    accuracy: Sequence[float | None] = (0.1, 0.3, 0.5),
    per_round: Mapping[str, Any] | None = None,
    class_accuracy: Sequence[float | None] = (0.9, 0.5, 0.1),
    train_accuracy: Sequence[float] = (0.8, 0.7, 0.6, 0.5),
    partition_counts: Sequence[Sequence[int]] = PARTITION,
    teacher_accuracy: float | None = None,
    **sections: Any,
) -> Path:
    """Write a run with one round per accuracy and all tables, and returns its folder.

    An accuracy of None is a round without evaluation. `per_round` gives columns of rounds.csv: one value, or one per
    round. `sections` are sections of the spec: `training={"rounds": 9}` makes the run unfinished, `partition` replaces
    `alpha`, `teacher=None` removes the teacher. The run uses its teacher if the strategy needs one.
    """
    defaults: Row = {
        "strategy": {"name": "fedavg"} if strategy is None else dict(strategy),
        "partition": {"kind": "dirichlet", "alpha": alpha, "clients": len(partition_counts)},
        "teacher": TEACHER,
        "training": {"rounds": len(accuracy) or 10},
    }
    spec = Experiment.model_validate({"seed": seed, **defaults, **sections})
    uses_teacher = spec.strategy.needs_teacher
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(to_yaml(spec), encoding="utf-8")
    write_rounds(folder, accuracy, per_round, uses_teacher=uses_teacher)
    write_clients(folder, len(accuracy), train_accuracy, partition_counts)
    last = max((number for number, value in enumerate(accuracy, 1) if value is not None), default=0)
    write_classes(folder, range(1, last + 1), class_accuracy)
    write_partition(folder, partition_counts)
    write_confusion(folder, "proxy", [{"round": last} | row for row in confusion(class_accuracy)])
    accuracies = {} if teacher_accuracy is None else {"teacher_accuracy": teacher_accuracy}
    _write_json(
        folder / "environment.json", {"format": FORMAT, "commit": "abc1234", "command": ["fedray", "run"]} | accuracies
    )
    if len(accuracy) == spec.training.rounds:
        examples = sum(map(sum, partition_counts)) * len(accuracy)
        _write_json(folder / "costs.json", {"proxy": {"flops": 1000 * examples}, "teacher": {"flops": 0}})
    if uses_teacher:
        write_confusion(folder, "teacher", confusion([0.8] * len(class_accuracy)))
    return folder


def write_study(
    root: Path,
    strategies: Iterable[Mapping[str, Any]],
    alphas: Iterable[float] = (0.05, 0.5),
    seeds: Iterable[int] = (0, 1, 2),
    accuracy: Callable[[Mapping[str, Any], float, int], Sequence[float | None]] = lambda *_: (0.1, 0.3, 0.5),
    **sections: Any,
) -> Path:
    """Write a run for each strategy, α and seed, and trials.csv, as a sweep does. Return `root`."""
    folders = []
    for strategy in strategies:
        label = ",".join(f"{key}={value}" for key, value in strategy.items())
        for alpha in alphas:
            for seed in seeds:
                folder = root / f"{label},alpha={alpha},seed={seed}"
                curve = accuracy(strategy, alpha, seed)
                folders.append(write_run(folder, strategy=strategy, alpha=alpha, seed=seed, accuracy=curve, **sections))
    write_trials(root, [{"trial": folder.name, "state": "finished"} for folder in folders])
    return root


def write_rounds(
    folder: Path,
    accuracy: Sequence[float | None],
    columns: Mapping[str, Any] | None = None,
    *,
    uses_teacher: bool = False,
) -> None:
    """Write rounds.csv. The worst class has half the accuracy, the rare classes three quarters of it.

    The accuracy of clients has columns if `columns` gives it; runs of earlier versions have none.
    """
    used = {
        "teacher_outputs_used": 300,
        "teacher_forward_passes": 300,
        "teacher_flops": 3_000_000,
        "teacher_seconds": 0.5,
    }
    unused = dict.fromkeys(used, 0)
    rows = []
    for place, value in enumerate(accuracy):
        own = {
            k: cells if isinstance(cells, int | float | str) else cells[place] for k, cells in (columns or {}).items()
        }
        rows.append(
            {"round": place + 1, **TRAINED, **SENT, **(used if uses_teacher else unused), **_scores(value), **own}
        )
    added = [name for name in CLIENT_ACCURACY_COLUMNS if name in (columns or {})]
    write_table(folder / "rounds.csv", (*ROUNDS_COLUMNS, *added), rows)


def write_clients(
    folder: Path, rounds: int, train_accuracy: Sequence[float], counts: Sequence[Sequence[int]] = PARTITION
) -> None:
    """Write clients.csv with equal rows in every round."""
    rows = [
        {"round": number, "client": client, "examples": sum(held), "train_accuracy": local, "update_norm": 1.0 + client,
         "seconds": 0.5, "teacher_seconds": 0.0, "node": "here", "device": "cpu", "peak_bytes": 1 << 20}
        for number in range(1, rounds + 1)
        for client, (local, held) in enumerate(zip(train_accuracy, counts, strict=True))
    ]  # fmt: skip
    write_table(folder / "clients.csv", (*CLIENTS_COLUMNS[:3], "loss_cross_entropy", *CLIENTS_COLUMNS[3:]), rows)


def write_classes(folder: Path, rounds: Iterable[int], accuracy: Sequence[float | None], examples: int = 10) -> None:
    """Write classes.csv with equal rows in every round."""
    rows = [
        {"round": number, "class": label, "class_name": name, "examples": examples, "test_accuracy": value}
        for number in rounds
        for label, (name, value) in enumerate(zip(_names(len(accuracy)), accuracy, strict=True))
    ]
    write_table(folder / "classes.csv", CLASSES_COLUMNS, rows)


def write_partition(folder: Path, counts: Sequence[Sequence[int]]) -> None:
    """Write partition.csv from examples by client and class."""
    names = _names(len(counts[0]))
    rows = [
        {"client": client, "class": label, "class_name": names[label], "examples": examples}
        for client, held in enumerate(counts)
        for label, examples in enumerate(held)
        if examples
    ]
    write_table(folder / "partition.csv", PARTITION_COLUMNS, rows)


def write_trials(root: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    """Write trials.csv with `trial`, `state` and, for some, `reason`."""
    write_table(root / "trials.csv", ("trial", "state", "round", "reason"), [dict(trial) for trial in trials])


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a table as runs do; None is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with CsvTable(path, columns) as table:
        table.write(rows)


def confusion(class_accuracy: Sequence[float | None], examples: int = 10) -> list[Row]:
    """Rows of a confusion matrix: errors are predicted as the next class."""
    rows = []
    for label, value in enumerate(class_accuracy):
        correct = round((value or 0.0) * examples)
        wrong = (label + 1) % len(class_accuracy)
        rows += [{"class": label, "predicted_class": label, "examples": correct}] * (correct > 0)
        rows += [{"class": label, "predicted_class": wrong, "examples": examples - correct}] * (correct < examples)
    return rows


def _scores(accuracy: float | None) -> Row:
    if accuracy is None:
        return {}
    return {
        "test_accuracy": accuracy,
        "test_loss": 2 - accuracy,
        "worst_class_accuracy": accuracy / 2,
        "rare_class_accuracy": accuracy * 0.75,
    }


def _names(count: int) -> tuple[str, ...]:
    return (*CLASS_NAMES, *(f"class {number}" for number in range(len(CLASS_NAMES), count)))[:count]


def _write_json(path: Path, document: Row) -> None:
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
