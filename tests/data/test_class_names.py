"""Classes are matched by name between the training and the test set."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers.images import dataset

from fedray.data.class_names import check_names, match_classes
from fedray.data.dataset import Dataset
from fedray.errors import SpecError


def labelled(classes: Sequence[str], labels: Sequence[int] | None = None, *, named: bool = True) -> Dataset:
    values = np.arange(len(classes)) if labels is None else np.array(labels)
    return replace(dataset(values), classes=tuple(classes), named=named)


@pytest.mark.parametrize(
    ("train", "test", "labels"),
    [
        (["1", "2", "3"], ["2", "3"], [1, 2]),
        (["cat", "dog"], ["dog", "cat"], [1, 0]),
        (["crane", "crane", "emu"], ["emu", "crane", "crane"], [2, 0, 1]),
        (["None", "client", "examples"], ["client", "None"], [1, 0]),
    ],
)
def test_test_labels_are_those_of_the_training_set(train: list[str], test: list[str], labels: list[int]) -> None:
    matched = match_classes(labelled(train), labelled(test))
    assert matched.classes == tuple(train)
    assert matched.labels.tolist() == labels


def test_equal_classes_change_nothing() -> None:
    test = labelled(["crane", "crane"])
    assert match_classes(labelled(["crane", "crane"]), test) is test


def test_class_of_the_training_set_alone_is_kept_and_noted() -> None:
    matched = match_classes(labelled(["cat", "dog", "emu"]), labelled(["emu", "cat"]))
    assert matched.left_out == ("the class 'dog' is only in data.train, not in data.test",)
    assert matched.shape.classes == 3


@pytest.mark.parametrize(("train", "test"), [(["1", "2", "3"], ["2", "3", "4"]), (["cat"], ["cat", "crane"])])
def test_class_of_the_test_set_alone_is_refused(train: list[str], test: list[str]) -> None:
    with pytest.raises(SpecError, match=rf"^data: the class '{test[-1]}' is only in data.test"):
        match_classes(labelled(train), labelled(test))


def test_more_equal_names_than_the_training_set_has_are_refused() -> None:
    with pytest.raises(SpecError, match=r"the class 'crane' is only in data.test"):
        match_classes(labelled(["crane", "emu"]), labelled(["crane", "crane"]))


def test_declared_class_without_a_test_image_is_no_class_of_the_test_set() -> None:
    assert match_classes(labelled(["cat"]), labelled(["cat", "dog"], [0, 0])).labels.tolist() == [0, 0]


class TestSourceWithoutNames:
    def test_numbers_are_matched_with_names_by_position(self) -> None:
        named = labelled(["cat", "dog", "emu"])
        assert match_classes(named, labelled(["0", "2"], named=False)).labels.tolist() == [0, 2]
        assert match_classes(labelled(["0", "2"], named=False), labelled(["cat", "x", "emu"], [0, 2])).classes == (
            "0",
            "2",
        )

    def test_numbers_are_matched_with_names_that_are_numbers_by_name(self) -> None:
        assert match_classes(labelled(["1", "2"]), labelled(["2"], named=False)).labels.tolist() == [1]
        with pytest.raises(SpecError, match=r"the class '0' is only in data.test"):
            match_classes(labelled(["1", "2"]), labelled(["0", "1"], named=False))

    def test_number_beyond_the_names_is_refused(self) -> None:
        with pytest.raises(SpecError, match=r"the class '2' is only in data.test"):
            match_classes(labelled(["cat", "dog"]), labelled(["0", "2"], named=False))


def test_class_name_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^data.train: the class name 'caf\\udce9' is not valid UTF-8\.$"):
        check_names(labelled(["caf\udce9"]), "data.train")
