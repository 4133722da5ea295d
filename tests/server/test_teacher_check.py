"""The test accuracy of teachers, measured through the teacher cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import federated
from pydantic import TypeAdapter

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import SpecError
from fedray.server.teacher_check import TeacherAccuracy, distinct_teachers, teacher_accuracies
from fedray.server.teacher_client import TeacherClient
from fedray.teachers import loading
from fedray.teachers.cache import TeacherCache
from fedray.teachers.sections import AnyTeacher

Make = Callable[..., Experiment]

STAND_IN = {"kind": "supervised", "epochs": 2}
OTHER = {"kind": "supervised", "epochs": 5}


@pytest.fixture
def make(small: Make) -> Make:
    """Make a small experiment with a teacher of any kind."""
    return lambda teacher, **others: small(
        teacher=TypeAdapter(AnyTeacher).validate_python(teacher), data={"train_limit": 100}, **others
    )


def check(experiment: Experiment, data: FederatedDataset | None = None) -> tuple[list[TeacherAccuracy], int]:
    """Return the accuracies, and the number of forward passes."""
    data = data or federated.load(experiment)
    teacher_client = TeacherClient(experiment, data, SerialBackend(experiment, data), TeacherCache())
    events = list[Any]()
    accuracies = teacher_accuracies(experiment, data, teacher_client, events.append)
    assert all(event.total == 60 for event in events)
    return accuracies, teacher_client.costs.forward_passes


def accuracy(spec: Any, data: FederatedDataset) -> float:
    teacher = loading.load(TypeAdapter(AnyTeacher).validate_python(spec), data, 0, torch.device("cpu"))
    return float(np.mean(teacher.outputs(data.test.images)["logits"].argmax(1) == data.test.labels))


def test_outputs_for_the_test_set_are_computed_once(make: Make) -> None:
    data = federated.load(make(STAND_IN))
    expected = TeacherAccuracy("supervised", data.test.name, 60, accuracy(STAND_IN, data), None)
    assert check(make(STAND_IN)) == ([expected], 60)
    assert check(make(STAND_IN, strategy={"name": "fedlpfm", "lam": 0.1})) == ([expected], 0)


def test_each_teacher_of_an_ensemble_is_measured(make: Make) -> None:
    experiment = make({"kind": "ensemble", "teachers": [OTHER, STAND_IN], "assignment": "consistent"})
    data = federated.load(experiment)
    accuracies, passes = check(experiment)
    assert [row.accuracy for row in accuracies] == [accuracy(OTHER, data), accuracy(STAND_IN, data)]
    assert passes == 120


@pytest.mark.parametrize("method", ["linear_probe", "fine_tune"])
def test_an_adapted_teacher_is_measured_before_adaptation(make: Make, method: str) -> None:
    accuracies, passes = check(make({"kind": "adapted", "backbone": OTHER, "method": method}))
    assert passes == 60
    assert check(make(OTHER)) == (accuracies, 0)


@pytest.mark.parametrize("side", ["test", "train"])
def test_a_table_is_measured_on_the_data_set_that_it_is_for(make: Make, tmp_path: Path, side: str) -> None:
    plain = federated.load(make(STAND_IN))
    data = plain.side(side)  # type: ignore[arg-type]
    wrong = np.arange(len(data)) % 3 == 0
    predicted = np.where(wrong, (data.labels + 1) % 10, data.labels)
    pd.DataFrame({"index": data.rows, "logits": list(np.eye(10, dtype=np.float32)[predicted])}).to_parquet(
        tmp_path / "t"
    )
    experiment = make({"kind": "precomputed", "file": str(tmp_path / "t")})
    (measured,), passes = check(experiment)
    examples = np.arange(len(data)) if side == "test" else np.concatenate(plain.shards)
    assert passes == 0
    assert measured.images == len(examples)
    assert measured.accuracy == pytest.approx(1 - wrong[examples].mean())
    assert measured.teacher == f"precomputed {tmp_path / 't'}"


def test_a_table_for_neither_data_set_is_refused(make: Make, tmp_path: Path) -> None:
    pd.DataFrame({"index": [10**6], "logits": [np.zeros(10)]}).to_parquet(tmp_path / "t")
    with pytest.raises(SpecError, match=r"has logits for 0 of the 80 images of digits"):
        check(make({"kind": "precomputed", "file": str(tmp_path / "t")}))


def test_each_combination_of_teacher_and_data_is_measured_once(make: Make, small: Make) -> None:
    first = make(STAND_IN)
    same = make(STAND_IN, strategy={"name": "fedlpfm", "lam": 0.9}, training={"optimizer": {"lr": 0.5}})
    other = make(OTHER)
    distinct = distinct_teachers([first, same, other, first, small(teacher=None)])
    assert [(spec.teacher, spec.data) for spec in distinct] == [(spec.teacher, spec.data) for spec in (first, other)]
    with pytest.raises(SpecError, match=r"the spec has no teacher to check\."):
        distinct_teachers([small(teacher=None)])


def test_teachers_with_different_class_maps_are_distinct(make: Make) -> None:
    maps = [{str(n): (n,) for n in range(10)}, {str(n): (n + 1,) for n in range(10)}]
    experiments = [make({"kind": "classifier", "model": "resnet18", "class_map": classes}) for classes in maps]
    assert distinct_teachers([*experiments, experiments[0]]) == experiments
