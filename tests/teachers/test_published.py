"""Published accuracies by model, tag and data set."""

import open_clip
import pytest

from fedray.teachers.published import CIFAR10, PUBLISHED, published

CIFAR100 = ("aquarium_fish", "willow_tree", *(f"other {i}" for i in range(98)))


def test_by_model_tag_and_data_set() -> None:
    assert published("ViT-B-32", "openai", sorted(CIFAR10)) == 89.83
    assert published("ViT-B-32", "openai", CIFAR100) == 64.23
    assert published("ViT-B-32", "laion2b_s34b_b79k", sorted(CIFAR10)) == 93.58


def test_class_names_with_spaces_for_underscores() -> None:
    assert published("ViT-B-32", "openai", [name.replace("_", " ") for name in CIFAR100]) == 64.23


def test_the_quickgelu_name_has_the_same_accuracy() -> None:
    """A file of OpenAI's weights is loaded as `ViT-B-32-quickgelu`."""
    assert published("ViT-B-32-quickgelu", "openai", CIFAR100) == 64.23


@pytest.mark.parametrize(
    ("model", "tag", "classes"),
    [
        ("ViT-B-32", "openai", tuple("0123456789")),
        ("ViT-B-32", "openai", tuple(f"class {i}" for i in range(100))),
        ("ViT-B-32", "openai", sorted(CIFAR10)[:9]),
        ("ViT-B-32", None, sorted(CIFAR10)),
        ("ViT-B-32", "some file.pt", sorted(CIFAR10)),
        ("local-dir:somewhere", None, sorted(CIFAR10)),
    ],
)
def test_unknown_models_and_data(model: str, tag: str | None, classes: tuple[str, ...]) -> None:
    assert published(model, tag, classes) is None


@pytest.mark.parametrize(("model", "tag"), PUBLISHED)
def test_every_entry_exists_in_open_clip(model: str, tag: str) -> None:
    """A misspelt name would never match."""
    assert tag in open_clip.list_pretrained_tags_by_model(model)
    cifar10, cifar100 = PUBLISHED[model, tag]
    assert 10 < cifar100 < cifar10 < 100  # in percent; CIFAR-100 is harder
