"""The search section of a space."""

from pathlib import Path
from typing import Any

import pytest
from helpers.specs import write_spec

from fedray.config.loader import load, read
from fedray.config.search import Search
from fedray.errors import SpecError

RANDOM_SEARCH = """
base: {seed: 4}
space: {training.optimizer.lr: {grid: [0.1, 0.2]}, training.optimizer.momentum: {uniform: [0.5, 0.9]}}
search: {metric: test_loss, algorithm: random, samples: 5}
"""


def test_search_section_and_its_overrides(tmp_path: Path) -> None:
    space = read(
        write_spec(tmp_path, RANDOM_SEARCH), ["search.scheduler=asha", "search.grace=2", "search.log_to=[]", "seed=5"]
    )
    assert space.search == Search(
        metric="test_loss", algorithm="random", samples=5, scheduler="asha", grace=2, log_to=()
    )
    assert [(axis.field, axis.kind) for axis in space.axes] == [
        ("training.optimizer.lr", "grid"),
        ("training.optimizer.momentum", "uniform"),
    ]
    assert space.first() == {"training.optimizer.lr": 0.1, "training.optimizer.momentum": 0.5}
    runs = space.runs()
    assert len(runs) == 5  # points, not combinations
    assert {run.experiment.training.optimizer.lr for run in runs} <= {0.1, 0.2}
    assert len({run.experiment.training.optimizer.momentum for run in runs}) == 5
    assert {run.experiment.seed for run in runs} == {5}
    on_grid = read(write_spec(tmp_path, RANDOM_SEARCH), ["search.algorithm=grid"])
    assert len(on_grid.runs()) == 10
    assert len(read(write_spec(tmp_path, RANDOM_SEARCH), ["training.optimizer.lr=0.3"]).runs()) == 5


@pytest.mark.parametrize(
    ("search", "direction"),
    [
        ({}, "max"),
        ({"metric": "test_loss"}, "min"),
        ({"metric": "test_loss", "mode": "max"}, "max"),
        ({"metric": "last_k_accuracy"}, "max"),
        ({"metric": "test_accuracy", "mode": "min"}, "min"),
    ],
    ids=str,
)
def test_direction_of_a_metric(search: dict[str, Any], direction: str) -> None:
    assert Search.model_validate(search).direction == direction


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("sheduler: asha", "unknown field 'search.sheduler'; did you mean 'scheduler'? ('search' has metric, mode,"),
        (
            "metric: test_acuracy",
            "search.metric is 'test_acuracy', but must be one of test_accuracy, last_k_accuracy, test_loss,",
        ),
        ("metric: test_acuracy", "; did you mean 'test_accuracy'?"),
        ("algorithm: tpe", "search.algorithm is 'tpe', but must be one of grid, random, optuna"),
        ("scheduler: hyperband", "search.scheduler is 'hyperband', but must be one of none, asha, median, pbt"),
        ("mode: biggest", "search.mode is 'biggest', but must be one of max, min"),
        ("samples: 0", "search.samples is 0, but must be at least 1"),
        ("grace: 0", "search.grace is 0, but must be at least 1"),
        ("reduction: 1", "search.reduction is 1, but must be at least 2"),
        ("retries: -1", "search.retries is -1, but must be at least 0"),
        ("max_concurrent: 0", "search.max_concurrent is 0, but must be auto or at least 1"),
        ("scheduler: pbt", "search.mutations is null, but must be set for pbt, such as"),
        (
            "mutations: {training.optimizer.lr: [0.1, 0.01]}",
            "search.mutations is {'training.optimizer.lr': [0.1, 0.01]}, but must be set",
        ),
        (
            "scheduler: pbt, mutations: {training.optimizer.lr: [0.1]}",
            "search.mutations.training.optimizer.lr is [0.1], but must have at",
        ),
        ("log_to: [tensorbord]", "search.log_to.0 is 'tensorbord', but must be one of tensorboard, mlflow, wandb; did"),
        ("log_to: wandb", "search.log_to is 'wandb', but must be a list"),
    ],
)
def test_invalid_search_is_one_sentence(tmp_path: Path, search: str, expected: str) -> None:
    file = write_spec(tmp_path, f"space: {{seed: {{grid: [1, 2]}}}}\nsearch: {{{search}}}")
    with pytest.raises(SpecError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert expected in str(caught.value)


def test_optuna_needs_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"search.algorithm is optuna, .*: use fedray sweep\.$"):
        load(write_spec(tmp_path, "space: {seed: {grid: [1, 2]}}\nsearch: {algorithm: optuna}"))
