"""Every strategy with every aggregation rule, server optimizer and local optimizer: it runs, or is refused."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import algorithms
from pydantic import ValidationError
from safetensors.numpy import load_file

from fedray.aggregation.aggregators import AGGREGATORS
from fedray.aggregation.server_optimizers import SERVER_OPTIMIZERS
from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.server.driver import Driver
from fedray.strategies import STRATEGIES

OPTIMIZERS = ("sgd", "adam", "adamw")
COMBINATIONS = list(product(AGGREGATORS, SERVER_OPTIMIZERS, OPTIMIZERS))
REFUSED: dict[str, dict[str, set[str]]] = {
    "centralized": {"aggregation": {"krum", "multi_krum"}},
    "feddyn": {"aggregation": set(AGGREGATORS) - {"mean"}},
    "fednova": {"optimizer": {"adam", "adamw"}},
    "local": {"aggregation": set(AGGREGATORS) - {"mean"}, "server": set(SERVER_OPTIMIZERS) - {"sgd"}},
    "scaffold": {"optimizer": {"adam", "adamw"}},
}
"""The values of each section that a strategy refuses."""
FIELDS: dict[str, dict[str, Any]] = {"feddf": {"steps": 2}}
BATCH_NORM = ("fedbn",)
"""Strategies that need a proxy with BatchNorm."""


def spec(strategy: str, aggregation: str, server: str, optimizer: str) -> dict[str, Any]:
    """One round on five clients, which is what Krum needs."""
    document: dict[str, Any] = {
        "data": {**algorithms.SPEC["data"], "train_limit": 60, "public_fraction": 0.1},
        "partition": {"kind": "iid", "clients": 5},
        "proxy": algorithms.NORM if strategy in BATCH_NORM else algorithms.SPEC["proxy"],
        "strategy": {"name": strategy, **FIELDS.get(strategy, {})},
        "training": {"rounds": 1, "batch_size": 16, "optimizer": {"name": optimizer}},
        "aggregation": {"name": aggregation},
        "server": {"name": server},
        "resources": {"backend": "serial"},
    }
    if STRATEGIES[strategy]().needs_teacher:
        document["teacher"] = {"kind": "supervised", "epochs": 1}
    return document


def is_refused(strategy: str, **names: str) -> bool:
    return any(names[section] in refused for section, refused in REFUSED.get(strategy, {}).items())


def check(strategy: str, combination: tuple[str, str, str], folder: Path) -> None:
    """Run a cell of the matrix, or see that it is refused with a reason that names the strategy."""
    aggregation, server, optimizer = combination
    document = spec(strategy, aggregation, server, optimizer)
    if is_refused(strategy, aggregation=aggregation, server=server, optimizer=optimizer):
        with pytest.raises(ValidationError, match=f"strategy.name is '{strategy}', but .* set it to"):
            Experiment.model_validate(document)
        return
    for _ in Driver(Experiment.model_validate(document), folder, SerialBackend).run():
        pass
    assert all(np.isfinite(array).all() for array in load_file(folder / "model.safetensors").values())


SOME = [
    (strategy, COMBINATIONS[(31 * number + offset) % len(COMBINATIONS)])
    for number, strategy in enumerate(STRATEGIES)
    for offset in (0, 17)
]
"""Two cells of each strategy; together they have every value of the other sections."""


def test_the_quick_cells_have_every_value() -> None:
    for position, names in enumerate((AGGREGATORS, SERVER_OPTIMIZERS, OPTIMIZERS)):
        assert {combination[position] for _, combination in SOME} == set(names)


@pytest.mark.parametrize(("strategy", "combination"), SOME)
def test_cell_runs_or_is_refused(strategy: str, combination: tuple[str, str, str], tmp_path: Path) -> None:
    check(strategy, combination, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_cell_of_a_strategy(strategy: str, tmp_path: Path) -> None:
    for combination in COMBINATIONS:
        check(strategy, combination, tmp_path / "-".join(combination))
