"""The queries of a round name exactly the outputs that its targets are computed from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import federated
from pydantic import TypeAdapter

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.data.views import PLAIN, VIEWS, choose_views
from fedray.server.teacher_client import TeacherClient, cache_entry
from fedray.server.teacher_queries import RoundQueries
from fedray.server.teacher_targets import TeacherTargets
from fedray.teachers.cache import TeacherCache
from fedray.teachers.sections import AnyTeacher
from fedray.types import TeacherQuery

Make = Callable[..., Experiment]

STAND_IN = {"kind": "supervised", "epochs": 1}
OTHER = {"kind": "supervised", "epochs": 2}
PROBE = {"kind": "adapted", "backbone": STAND_IN, "epochs": 1}
TUNED = {**PROBE, "method": "fine_tune"}
LIST = {"kind": "ensemble", "teachers": [STAND_IN, PROBE, TUNED], "assignment": [0, [0, 1], 2, 1]}
TEACHERS = {"stand-in": STAND_IN, "probe": PROBE, "fine-tuned": TUNED, "ensemble": LIST}


@pytest.fixture
def make(small: Make) -> Make:
    """Make a small experiment that distils from a teacher of any kind."""

    def make(teacher: Any, **sections: Any) -> Experiment:
        defaults: dict[str, Any] = {
            "data": {"train_limit": 100, "augment": "crop_flip"},
            "strategy": {"name": "fedlpfm"},
            "training": {"local_epochs": 2},
        }
        sections = defaults | sections
        return small(teacher=TypeAdapter(AnyTeacher).validate_python(teacher), **sections)

    return make


@pytest.mark.parametrize("view", ["plain", "proxy"])
@pytest.mark.parametrize("name", TEACHERS)
def test_queries_are_the_rows_that_targets_read(make: Make, name: str, view: str) -> None:
    experiment = make(TEACHERS[name] | {"view": view})
    data, cohort = federated.load(experiment), [0, 1, 3]
    backend, cache = SerialBackend(experiment, data), TeacherCache()
    client = TeacherClient(experiment, data, backend, cache)
    TeacherTargets(experiment, data, backend, client).of_round(2, cohort, lambda _: None)
    queries = RoundQueries(experiment, data).of_round(2, cohort)
    entries = [cache_entry(query, experiment, data, cache) for query in queries]
    for entry, rows in zip(entries, queries.values(), strict=True):
        assert np.flatnonzero(entry.peek(np.arange(entry.rows))[1]).tolist() == np.unique(rows).tolist()
    heads = [entry for entry in cache.entries() if entry.metadata["content"]["output_kind"] == "head"]
    assert {entry.key for entry in cache.entries()} == {entry.key for entry in [*entries, *heads]}


def test_rows_of_plain_images_do_not_depend_on_the_cohort(make: Make) -> None:
    experiment = make(STAND_IN)
    data = federated.load(experiment)
    queries = RoundQueries(experiment, data)
    ((query, rows),) = queries.of_round(1, [0]).items()
    assert query == TeacherQuery(0, "logits")
    assert rows.tolist() == np.concatenate(data.shards).tolist()
    assert not queries.augmented


def test_rows_of_views_are_those_of_the_rounds_epochs(make: Make) -> None:
    experiment = make({**STAND_IN, "view": "proxy"})
    data = federated.load(experiment)
    ((query, rows),) = RoundQueries(experiment, data).of_round(3, [1]).items()
    shard = data.shards[1]
    expected = [shard * VIEWS + choose_views(shard, 0, epoch) for epoch in (4, 5)]
    assert query == TeacherQuery(0, "logits", augmented=True)
    assert rows.tolist() == np.concatenate(expected).tolist()


def test_a_probe_is_fitted_to_features_of_plain_images(make: Make) -> None:
    experiment = make({**PROBE, "view": "proxy"})
    data = federated.load(experiment)
    ((query, rows),) = RoundQueries(experiment, data).of_round(1, [2]).items()
    assert query == TeacherQuery(0, "features", augmented=True)
    assert rows[-len(data.shards[2]) :].tolist() == (data.shards[2] * VIEWS + PLAIN).tolist()


def test_precomputed_outputs_are_not_cached(make: Make, tmp_path: Path) -> None:
    pd.DataFrame({"index": [0], "logits": [np.zeros(10)]}).to_parquet(tmp_path / "logits.parquet")
    experiment = make({"kind": "precomputed", "file": str(tmp_path / "logits.parquet")})
    assert RoundQueries(experiment, federated.load(experiment)).of_round(1, [0]) == {}


@pytest.mark.parametrize(
    ("teacher", "strategy"), [({**STAND_IN, "mode": "online"}, {"name": "fedlpfm"}), (STAND_IN, {"name": "fedavg"})]
)
def test_online_and_unused_teachers_have_no_queries(make: Make, teacher: Any, strategy: Any) -> None:
    experiment = make(teacher, strategy=strategy)
    queries = RoundQueries(experiment, federated.load(experiment))
    assert not queries.is_cached
    assert queries.of_round(1, [0]) == {}


def test_outputs_used_count_teachers_and_epochs(make: Make) -> None:
    experiment = make(LIST)
    data = federated.load(experiment)
    sizes = [len(shard) for shard in data.shards]
    assert RoundQueries(experiment, data).outputs_used(1, [0, 1]) == 2 * (sizes[0] + 2 * sizes[1])
