"""costs.json: the cost of a run's teachers and models over all rounds, those before a resume included."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedray.config.experiment import Experiment
from fedray.files import replace_text
from fedray.results.loader import read_rows
from fedray.types import Row


@dataclass
class TeacherCosts:
    """The cost of the teachers since the start of the driver."""

    forward_passes: int = 0  # of one image each
    flops: int = 0  # floating-point operations of all passes
    seconds: float = 0.0  # of waiting for outputs in the driver
    peak_bytes: int = 0  # maximum over the processes
    storage_error: float = 0.0  # largest rounding error of storing outputs in float16
    produced_by: dict[str, Row] = field(default_factory=dict)  # of the cache entries that were read, by key


def write(folder: Path, experiment: Experiment, costs: TeacherCosts, flops: Mapping[str, int]) -> None:
    """Write costs.json from the tables of a finished run.

    `costs` gives `peak_bytes` and `storage_error`, which cover the last driver only. `flops`: floating-point operations
    of training on one example, by model (`proxy` and, if there is one, `private`), and of a forward pass if `frozen`.
    """
    rounds, clients = read_rows(folder / "rounds.csv"), read_rows(folder / "clients.csv")
    used, passes = _sum(rounds, "teacher_outputs_used"), _sum(rounds, "teacher_forward_passes")
    strategy, training = experiment.strategy, experiment.training
    trained = sum(strategy.round_examples(training, int(row["examples"])) for row in clients if "examples" in row)
    proxy_peak = int(max((row.get("peak_bytes", 0) for row in clients), default=0))
    document = {
        "teacher": {
            "outputs_used": int(used),
            "forward_passes": int(passes),
            "forward_passes_saved": int(used - passes),
            "flops": int(_sum(rounds, "teacher_flops")),
            "seconds": round(_sum(rounds, "teacher_seconds"), 3),
            "peak_bytes": costs.peak_bytes or (proxy_peak if _sum(clients, "teacher_seconds") else None),
            "storage_error": costs.storage_error,
            "entries": costs.produced_by,
        },
        "proxy": {
            "examples_trained": trained,
            **_flops(flops["proxy"], trained),
            "seconds": round(_sum(clients, "seconds") - _sum(clients, "teacher_seconds"), 3),
            "peak_bytes": proxy_peak,
        },
    }
    if server_seconds := _sum(rounds, "server_seconds"):
        document["server"] = {"seconds": round(server_seconds, 3)}
    if "private" in flops:
        document["private"] = _flops(flops["private"], trained)
    if "frozen" in flops:
        document["frozen"] = _flops(flops["frozen"] * len(experiment.strategy.frozen_models), trained)
    replace_text(folder / "costs.json", json.dumps(document, indent=2))


def _flops(per_example: int, examples: int) -> Row:
    return {"flops_per_example": per_example, "flops": per_example * examples}


def _sum(rows: list[Row], column: str) -> float:
    return sum(float(row.get(column, 0)) for row in rows)
