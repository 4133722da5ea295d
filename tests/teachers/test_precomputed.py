"""Precomputed outputs are found by path or row, in any order, and refused where they do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import federated

from fedray.config.experiment import Experiment
from fedray.data.dataset import Dataset
from fedray.errors import SpecError
from fedray.teachers.precomputed import PrecomputedTeacher
from fedray.teachers.sections import Precomputed
from fedray.types import OutputKind

LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
PATHS = [f"{name}.png" for name in "abcde"]
ROWS = [10, 11, 12, 13, 14]


def dataset(*, paths: bool = True) -> Dataset:
    """Five images of three classes."""
    images, labels = np.zeros((5, 3, 4, 4), dtype=np.uint8), np.array([0, 1, 2, 0, 1])
    return Dataset("five", images, labels, np.array(ROWS), np.array(PATHS) if paths else None, ("x", "y", "z"))


def teacher(file: Path, **columns: Any) -> PrecomputedTeacher:
    pd.DataFrame(columns).to_parquet(file)
    return PrecomputedTeacher(Precomputed(file=file))


def message_of(file: Path, data: Dataset | None = None, **columns: Any) -> str:
    with pytest.raises(SpecError) as caught:
        teacher(file, **columns).outputs("logits", data or dataset())
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "logits.parquet"


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_outputs_by_path(file: Path, kind: type) -> None:
    order = [3, 0, 4, 1, 2]
    stored = LOGITS.astype(kind)
    logits = teacher(file, path=[PATHS[i] for i in order], logits=[stored[i] for i in order]).outputs(
        "logits", dataset()
    )
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, stored.astype(np.float32))


def test_outputs_by_index(file: Path) -> None:
    order = [3, 0, 4, 1, 2]
    table = teacher(file, index=[ROWS[i] for i in order], logits=[LOGITS[i] for i in order])
    np.testing.assert_array_equal(table.outputs("logits", dataset(paths=False)), LOGITS)
    np.testing.assert_array_equal(table.outputs("logits", dataset()), LOGITS)


def test_outputs_of_a_subset(file: Path) -> None:
    """The file may have more images than the data, in another order."""
    table = teacher(file, path=PATHS, logits=list(LOGITS))
    np.testing.assert_array_equal(table.outputs("logits", dataset().take(np.array([4, 1]))), LOGITS[[4, 1]])
    np.testing.assert_array_equal(table.outputs("logits", dataset()), LOGITS)


class TestFeatures:
    """They may have any width, with or without logits in the same file."""

    FEATURES = np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32)

    def test_without_logits(self, file: Path) -> None:
        order = [3, 0, 4, 1, 2]
        table = teacher(file, path=[PATHS[i] for i in order], features=[self.FEATURES[i] for i in order])
        np.testing.assert_array_equal(table.outputs("features", dataset()), self.FEATURES)

    def test_with_logits(self, file: Path) -> None:
        both = teacher(file, path=PATHS, logits=list(LOGITS), features=list(self.FEATURES))
        np.testing.assert_array_equal(both.outputs("features", dataset()), self.FEATURES)
        np.testing.assert_array_equal(both.outputs("logits", dataset()), LOGITS)

    @pytest.mark.parametrize(("column", "missing"), [("features", "logits"), ("logits", "features")])
    def test_a_missing_column(self, file: Path, column: str, missing: OutputKind) -> None:
        table = teacher(file, path=PATHS, **{column: list(LOGITS)})
        with pytest.raises(SpecError) as caught:
            table.outputs(missing, dataset())
        assert str(caught.value) == (f"teacher.file: '{file}' has no column {missing}, which strategy.loss needs.")

    def test_not_finite(self, file: Path) -> None:
        table = teacher(file, path=PATHS, features=[*self.FEATURES[:4], np.full(7, np.nan)])
        with pytest.raises(SpecError) as caught:
            table.outputs("features", dataset())
        assert str(caught.value) == f"teacher: '{file}' has features that are not finite."


def test_precomputed_in_an_experiment(file: Path) -> None:
    rows = federated.load(Experiment()).train.rows
    logits = np.random.default_rng(1).normal(size=(len(rows), 10)).astype(np.float32)
    pd.DataFrame({"index": rows, "logits": list(logits)}).to_parquet(file)
    experiment = Experiment(teacher=Precomputed(file=file))
    data = federated.load(experiment)
    assert isinstance(experiment.teacher, Precomputed)
    logits = PrecomputedTeacher(experiment.teacher).outputs("logits", data.train)
    np.testing.assert_array_equal(logits, logits)


@pytest.mark.parametrize(
    "logits",
    [[["a", "b", "c"]] * 5, [[[0.5]] * 3] * 5, [["0.5"] * 3] * 5, ["abc"] * 5, [[True, False, True]] * 5],
    ids=["words", "nested lists", "numbers as text", "text", "booleans"],
)
def test_logits_that_are_no_lists_of_numbers(file: Path, logits: list[Any]) -> None:
    message = message_of(file, path=PATHS, logits=logits)
    assert message.startswith(f"teacher.file: '{file}' has logits that are no lists of numbers (")


def test_missing_image(file: Path) -> None:
    message = message_of(file, path=[*PATHS[:2], "f.png", *PATHS[3:]], logits=list(LOGITS))
    assert message == f"teacher.file: '{file}' has logits for 4 of the 5 images of five, not for 'c.png'."


def test_missing_row(file: Path) -> None:
    message = message_of(file, dataset(paths=False), index=ROWS[:3], logits=list(LOGITS[:3]))
    assert message == f"teacher.file: '{file}' has logits for 3 of the 5 images of five, not for row 13."


def test_no_image_of_the_data(file: Path) -> None:
    message = message_of(file, path=["f.png"], logits=[LOGITS[0]])
    assert message == f"teacher.file: '{file}' has logits for 0 of the 5 images of five, not for 'a.png'."


def test_an_image_listed_twice(file: Path) -> None:
    message = message_of(file, path=[*PATHS, "a.png"], logits=[*LOGITS, LOGITS[0]])
    assert message == f"teacher.file: '{file}' has logits for the same image twice."


def test_images_of_other_data_may_be_listed_twice(file: Path) -> None:
    table = teacher(file, path=[*PATHS, "f.png", "f.png"], logits=[*LOGITS, LOGITS[0], LOGITS[0]])
    np.testing.assert_array_equal(table.outputs("logits", dataset()), LOGITS)


def test_another_number_of_classes(file: Path) -> None:
    message = message_of(file, path=PATHS, logits=list(LOGITS[:, :2]))
    assert message == f"teacher: '{file}' has logits [5, 2], but five needs [5, 3] (images x classes)."


def test_different_lengths(file: Path) -> None:
    message = message_of(file, path=PATHS, logits=[*LOGITS[:4], LOGITS[4, :2]])
    assert message == f"teacher.file: '{file}' has logits of different lengths [2, 3]."


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(file: Path, bad: float) -> None:
    logits = LOGITS.copy()
    logits[2, 1] = bad
    message = message_of(file, path=PATHS, logits=list(logits))
    assert message == f"teacher: '{file}' has logits that are not finite."


def test_one_number_instead_of_a_list(file: Path) -> None:
    """As in a file of predicted classes."""
    assert message_of(file, path=PATHS, logits=[0.0, 1.0, 2.0, 0.0, 1.0]).startswith(f"teacher.file: '{file}'")


def test_a_missing_list(file: Path) -> None:
    assert message_of(file, path=PATHS, logits=[*LOGITS[:4], None]).startswith(f"teacher.file: '{file}'")


@pytest.mark.parametrize(
    "columns", [{"path": PATHS}, {"logits": list(LOGITS)}, {"file": PATHS, "logits": list(LOGITS)}]
)
def test_missing_columns(file: Path, columns: dict[str, Any]) -> None:
    pd.DataFrame(columns).to_parquet(file)
    with pytest.raises(SpecError) as caught:
        PrecomputedTeacher(Precomputed(file=file))
    expected = (
        f"teacher.file: '{file}' needs the columns logits (or features) and path or index, it has {', '.join(columns)}."
    )
    assert str(caught.value) == expected


def test_paths_for_data_without_paths(file: Path) -> None:
    message = message_of(file, dataset(paths=False), path=PATHS, logits=list(LOGITS))
    assert message == (f"teacher.file: '{file}' lists examples by path, but five has no paths; use the column index.")


def test_a_missing_file(file: Path) -> None:
    with pytest.raises(SpecError, match=r"^teacher.file: there is no file '.*'\.$"):
        PrecomputedTeacher(Precomputed(file=file))
