"""costs.json: what a run's teachers and proxies have cost, over all its rounds, resumed ones too."""

import csv
import json
from pathlib import Path
from typing import Any

import torch

from fedray.asking import Costs
from fedray.config import Experiment
from fedray.data.federation import Federation
from fedray.models import proxies
from fedray.seeding import torch_rng
from fedray.teachers.network import count_flops
from fedray.types import Row


def write(folder: Path, experiment: Experiment, data: Federation, costs: Costs) -> None:
    """From the tables of a finished run; `peak_bytes` and `storage_error` of what its last driver computed."""
    rounds, clients = _read(folder / "rounds.csv"), _read(folder / "clients.csv")
    asked, passes = _sum(rounds, "teacher_asked"), _sum(rounds, "teacher_passes")
    trained = _sum(clients, "examples") * experiment.training.local_epochs
    flops_per_step = training_flops(experiment.proxy, data.train.shape)
    proxy_peak = int(max((float(row["peak_bytes"] or 0) for row in clients), default=0))
    document = {
        "teacher": {
            "answers_used": int(asked),
            "forward_passes": int(passes),
            "forward_passes_saved": int(asked - passes),
            "flops": int(_sum(rounds, "teacher_flops")),
            "seconds": round(_sum(rounds, "teacher_seconds"), 3),
            "peak_bytes": costs.peak_bytes or (proxy_peak if _sum(clients, "teacher_seconds") else None),
            "storage_error": costs.storage_error,
            "entries": costs.made_by,
        },
        "proxy": {
            "examples_trained": int(trained),
            "flops_per_example": flops_per_step,
            "flops": int(flops_per_step * trained),
            "seconds": round(_sum(clients, "seconds") - _sum(clients, "teacher_seconds"), 3),
            "peak_bytes": proxy_peak,
        },
    }
    (folder / "costs.json").write_text(json.dumps(document, indent=2), encoding="utf-8")


def training_flops(proxy: proxies.Proxy, data: proxies.ImageShape) -> int:
    """Floating-point operations of one example's forward and backward pass through the proxy."""
    with torch_rng(None, 0, "flops"):  # its weights do not matter
        model = proxies.build(proxy.model_copy(update={"init": "random"}), data).train()
    images = torch.zeros(2, data.channels, data.size, data.size)

    def step() -> Any:
        return model(images).sum().backward()

    return count_flops(step) // len(images)


def _read(table: Path) -> list[Row]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _sum(rows: list[Row], column: str) -> float:
    return sum(float(row[column] or 0) for row in rows)
