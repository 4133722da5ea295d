"""Data sets as Python objects: arrays, torch and Hugging Face data sets, and functions outside the package."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from fedray.config.experiment import Experiment
from fedray.config.key import trial_key
from fedray.config.loader import parse_experiment
from fedray.config.yaml_files import to_yaml
from fedray.data.dataset import Dataset
from fedray.data.federated import read_datasets
from fedray.data.sections import Data
from fedray.errors import SpecError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 8, 8)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
LABELS = np.arange(12) % 3


class Pictures(torch.utils.data.Dataset[Any]):
    """A data set of torch whose items are images of Pillow and class numbers."""

    classes = ("ant", "bee", "cat")

    def __len__(self) -> int:
        return len(COLOUR)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(COLOUR[index]), int(LABELS[index])


def read(train: object, **fields: object) -> Dataset:
    return read_datasets(Data.model_validate({"train": train, "test": train, **fields}), 0)[0]


@pytest.mark.parametrize(
    ("source", "images"),
    [
        ((GRAY, LABELS), GRAY[:, None]),
        ((GRAY[..., None], LABELS), GRAY[:, None]),
        ((COLOUR, LABELS), COLOUR.transpose(0, 3, 1, 2)),
        ((COLOUR.transpose(0, 3, 1, 2), LABELS.tolist()), COLOUR.transpose(0, 3, 1, 2)),
        ((torch.from_numpy(GRAY), torch.from_numpy(LABELS)), GRAY[:, None]),
        ((COLOUR.astype(np.float32) / 255, LABELS), COLOUR.transpose(0, 3, 1, 2)),
        (TensorDataset(torch.from_numpy(GRAY)[:, None] / 255, torch.from_numpy(LABELS)), GRAY[:, None]),
        (Pictures(), COLOUR.transpose(0, 3, 1, 2)),
    ],
    ids=["gray", "one channel", "channels last", "channels first", "tensors", "floats", "TensorDataset", "Pillow"],
)
def test_object_is_read_as_its_images_and_labels(source: object, images: np.ndarray) -> None:
    data = read(source)
    assert np.array_equal(data.images, images)
    assert np.array_equal(data.labels, LABELS)


def test_class_names_come_from_the_object() -> None:
    assert read(Pictures()).classes == ("ant", "bee", "cat")
    assert read((GRAY, LABELS, ["x", "y", "z", "unused"])).classes == ("x", "y", "z", "unused")
    named = read((GRAY, ["b", "a"] * 6))
    assert (named.classes, named.labels.tolist()) == (("a", "b"), [1, 0] * 6)
    assert read((GRAY, LABELS + 5)).classes == ("5", "6", "7")


def test_limit_and_size_apply() -> None:
    data = read((GRAY, LABELS), train_limit=6, size=4)
    assert data.images.shape == (6, 1, 4, 4)
    assert np.bincount(data.labels).tolist() == [2, 2, 2]


def test_hugging_face_data_set_is_read() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    images = [Image.fromarray(image) for image in COLOUR]
    data = read(datasets.Dataset.from_dict({"img": images, "label": LABELS.tolist()}, features=features))
    assert np.array_equal(data.images, COLOUR.transpose(0, 3, 1, 2))
    assert (data.classes, data.labels.tolist()) == (("a", "b", "c"), LABELS.tolist())


def test_name_is_the_digest_of_the_contents() -> None:
    def experiment(images: np.ndarray, labels: np.ndarray = LABELS) -> Experiment:
        return parse_experiment({"data": {"train": (images, labels)}}, "spec")

    first = experiment(GRAY)
    assert first == experiment(GRAY.copy())
    assert hash(first) == hash(experiment(GRAY.copy()))
    assert trial_key(first) != trial_key(experiment(255 - GRAY))
    assert trial_key(first) != trial_key(experiment(GRAY, LABELS[::-1]))
    assert "train: memory:" in to_yaml(first)
    with pytest.raises(SpecError, match=r"data.train: 'memory:\w{16}' exists only in the program that made it"):
        read(first.model_dump(mode="json")["data"]["train"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((GRAY, LABELS[:5]), "..., but must have one label for each image; it has 12 images and 5 labels."),
        ((GRAY.astype(np.int64), LABELS), "must have images of uint8, or of floating point from 0 to 1, with 1 or 3"),
        ((GRAY * 2.0, LABELS), "or of floating point from 0 to 1, with 1 or 3 channels, not float64 of shape (8, 8)"),
        ((COLOUR[..., :2], LABELS), "with 1 or 3 channels, not uint8 of shape (8, 8, 2)"),
        ((GRAY, LABELS / 2), "must have numbers or strings as labels, not 0.0"),
        ((GRAY, ["a", 1] * 6), "must have labels that are all numbers or all strings"),
        ((), "but must be text"),
        (3, "data.train is 3, but must be text"),
    ],
    ids=lambda part: part[:40] if isinstance(part, str) else "",
)
def test_unusable_object_is_one_sentence(source: object, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_experiment({"data": {"train": source}}, "spec")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 250


def message_of(source: str) -> str:
    with pytest.raises(SpecError) as caught:
        read(source)
    return str(caught.value)


def test_label_without_a_class_is_refused() -> None:
    with pytest.raises(SpecError, match="labels range from 0 to 2, but there are 2 classes"):
        read((GRAY, LABELS, ["a", "b"]))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("outside_source:absent", "data.train: 'outside_source:absent' cannot be read: module 'outside_source' has no"),
        ("nowhere.at:all", "module 'nowhere.at' cannot be imported (ModuleNotFoundError: No module named 'nowhere')."),
        ("outside_source:NUMBER", "data.train: 'outside_source:NUMBER' must be a function that returns a data set."),
        ("outside_source:nothing", "data.train: NoneType is not a data set; return (images, labels)."),
        ("outside_source:failing", "data.train: 'outside_source:failing' cannot be read (out of images)."),
        ("outside_source:short", "data.train: a data set must have one label for each image; it has 2 images and 1"),
        (
            "foldr:images",
            "unknown source 'foldr:images'; use one of digits, torchvision, parquet, folder; did",
        ),
    ],
)
@pytest.mark.usefixtures("outside_source")
def test_unusable_function_is_one_sentence(source: str, expected: str) -> None:
    assert expected in message_of(source)


@pytest.fixture
def outside_source(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An importable module with functions that return data sets."""
    (tmp_path / "outside_source.py").write_text(
        "import numpy as np\nNUMBER = 1\n"
        "def nothing(argument, request):\n    return None\n"
        "def failing(argument, request):\n    raise ValueError('out of images')\n"
        "def short(argument, request):\n    return np.zeros((2, 4, 4), np.uint8), [1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
