"""How often teachers are right about the test set: asked through the bank, each once."""

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
from fedray.server.teacher_check import TeacherAccuracy, check_teachers, once_each
from fedray.server.teacher_queries import TeacherClient
from fedray.teachers import loading
from fedray.teachers.cache import TeacherCache
from fedray.teachers.sections import AnyTeacher
from fedray.types import TeacherProgress

Make = Callable[..., Experiment]

STAND_IN = {"kind": "supervised", "epochs": 2}
OTHER = {"kind": "supervised", "epochs": 5}


@pytest.fixture
def make(small: Make) -> Make:
    """A small experiment with a teacher of any kind."""
    return lambda teacher, **others: small(
        teacher=TypeAdapter(AnyTeacher).validate_python(teacher), data={"train_limit": 100}, **others
    )


def checked(experiment: Experiment, data: FederatedDataset | None = None) -> tuple[list[TeacherAccuracy], int]:
    """What is found, and the passes that it took."""
    data = data or federated.load(experiment)
    teacher_client = TeacherClient(experiment, data, SerialBackend(experiment, data), TeacherCache())
    events = list(check_teachers(experiment, data, teacher_client))
    assert all(event.total == 60 for event in events if isinstance(event, TeacherProgress))
    return [event for event in events if isinstance(event, TeacherAccuracy)], teacher_client.costs.forward_passes


def accuracy(spec: Any, data: FederatedDataset) -> float:
    teacher = loading.load(TypeAdapter(AnyTeacher).validate_python(spec), data, 0, torch.device("cpu"))
    return float(np.mean(teacher.ask(data.test.images)["logits"].argmax(1) == data.test.labels))


def test_the_test_set_is_asked_once(make: Make) -> None:
    data = federated.load(make(STAND_IN))
    expected = TeacherAccuracy("supervised", data.test.name, 60, accuracy(STAND_IN, data), None)
    assert checked(make(STAND_IN)) == ([expected], 60)
    assert checked(make(STAND_IN, strategy={"name": "fedlpfm", "lam": 0.1})) == ([expected], 0)


def test_each_of_several(make: Make) -> None:
    experiment = make({"kind": "ensemble", "teachers": [OTHER, STAND_IN], "assignment": "consistent"})
    data = federated.load(experiment)
    found, passes = checked(experiment)
    assert [one.accuracy for one in found] == [accuracy(OTHER, data), accuracy(STAND_IN, data)]
    assert passes == 120


@pytest.mark.parametrize("method", ["linear_probe", "fine_tune"])
def test_an_adapted_one_is_checked_as_it_was_before(make: Make, method: str) -> None:
    found, passes = checked(make({"kind": "adapted", "backbone": OTHER, "method": method}))
    assert passes == 60
    assert checked(make(OTHER)) == (found, 0)


@pytest.mark.parametrize("side", ["test", "train"])
def test_a_table_is_checked_on_whichever_set_it_is_of(make: Make, tmp_path: Path, side: str) -> None:
    plain = federated.load(make(STAND_IN))
    data = plain.side(side)  # type: ignore[arg-type]
    wrong = np.arange(len(data)) % 3 == 0
    said = np.where(wrong, (data.labels + 1) % 10, data.labels)
    pd.DataFrame({"index": data.rows, "logits": list(np.eye(10, dtype=np.float32)[said])}).to_parquet(tmp_path / "t")
    experiment = make({"kind": "precomputed", "file": str(tmp_path / "t")})
    (found,), passes = checked(experiment)
    asked = np.arange(len(data)) if side == "test" else np.concatenate(plain.shards)
    assert passes == 0
    assert found.images == len(asked)
    assert found.accuracy == pytest.approx(1 - wrong[asked].mean())
    assert found.teacher == f"precomputed {tmp_path / 't'}"


def test_a_table_of_neither_set(make: Make, tmp_path: Path) -> None:
    pd.DataFrame({"index": [10**6], "logits": [np.zeros(10)]}).to_parquet(tmp_path / "t")
    with pytest.raises(SpecError, match=r"has logits for 0 of the 80 images of digits"):
        checked(make({"kind": "precomputed", "file": str(tmp_path / "t")}))


def test_each_different_teacher_and_data_once(make: Make, small: Make) -> None:
    first = make(STAND_IN)
    same = make(STAND_IN, strategy={"name": "fedlpfm", "lam": 0.9}, training={"lr": 0.5})
    other = make(OTHER)
    found = once_each([first, same, other, first, small(teacher=None)])
    assert [(one.teacher, one.data) for one in found] == [(one.teacher, one.data) for one in (first, other)]
    with pytest.raises(SpecError, match=r"the spec has no teacher to check\."):
        once_each([small(teacher=None)])


def test_teachers_that_differ_by_their_class_map(make: Make) -> None:
    maps = [{str(n): (n,) for n in range(10)}, {str(n): (n + 1,) for n in range(10)}]
    experiments = [make({"kind": "classifier", "model": "resnet18", "class_map": classes}) for classes in maps]
    assert once_each([*experiments, experiments[0]]) == experiments
