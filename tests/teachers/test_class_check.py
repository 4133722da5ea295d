"""Class names and maps of teachers are compared with the data before a model is loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from fedray.config.experiment import Experiment
from fedray.data.dataset import Dataset
from fedray.errors import SpecError
from fedray.server.driver import Driver
from fedray.teachers.class_check import check_classes
from fedray.teachers.sections import AnyTeacher

IMAGES = Dataset("pets", np.zeros((2, 3, 8, 8), np.uint8), np.array([0, 1]), np.arange(2), None, ("cat", "dog"))
NUMBERS = replace(IMAGES, classes=("0", "1"), named=False)
MAP = {"cat": [1], "dog": [2, 3]}


def check(document: dict[str, Any], data: Dataset = IMAGES) -> None:
    check_classes(TypeAdapter(AnyTeacher).validate_python(document), data)


@pytest.mark.parametrize(
    ("teacher", "data", "reason"),
    [
        ({"kind": "zero_shot"}, NUMBERS, r"the labels of pets have no names, .* 'a photo of a 0.'; list the 2"),
        ({"kind": "zero_shot", "classes": ["cat"]}, IMAGES, r"teacher.classes names 1 classes, but the data has 2"),
        ({"kind": "classifier", "model": "m", "class_map": {**MAP, "dgo": [1]}}, IMAGES, "no class 'dgo'"),
        ({"kind": "classifier", "model": "m", "class_map": {"cat": [1]}}, IMAGES, "'dog' needs one or more"),
        ({"kind": "adapted", "backbone": {"kind": "zero_shot"}}, NUMBERS, r"the labels of pets have no names"),
    ],
)  # fmt: skip
def test_mismatch_is_refused(teacher: dict[str, Any], data: Dataset, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        check(teacher, data)


def test_matching_classes_pass() -> None:
    check({"kind": "zero_shot"})
    check({"kind": "zero_shot", "classes": ["a cat", "a dog"]}, NUMBERS)
    check({"kind": "classifier", "model": "m", "class_map": MAP})
    check({"kind": "classifier", "model": "m"}, NUMBERS)
    check_classes(None, NUMBERS)


def test_run_is_refused_before_workers_start(tmp_path: Path) -> None:
    """No model with this name exists: it is not looked for."""
    fields = {
        "data": {"train": "digits", "test": "digits", "train_limit": 40, "test_limit": 20},
        "partition": {"kind": "iid", "clients": 2},
        "teacher": {"kind": "zero_shot", "model": "no-such-model", "classes": ["one", "two"]},
        "resources": {"backend": "serial"},
    }
    with pytest.raises(SpecError, match=r"teacher\.classes names 2 classes, but the data has 10"):
        Driver(Experiment.model_validate({**fields, "strategy": {"name": "fedlpfm"}}), tmp_path / "a")
