"""The stand-in teacher is fitted on the public split alone; equal specs and seeds give equal bits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import federated

from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.partition import IID
from fedray.errors import SpecError
from fedray.models.proxies import Proxy
from fedray.teachers import loading, supervised
from fedray.teachers.sections import Supervised

CPU = torch.device("cpu")
QUICK = Supervised(epochs=2)


def logits(federated: FederatedDataset, images: np.ndarray, spec: Supervised = QUICK, seed: int = 0) -> np.ndarray:
    return supervised.load(spec, federated, seed, CPU).outputs(images)["logits"]


def experiment(spec: Supervised = QUICK, seed: int = 0, **data: Any) -> Experiment:
    return Experiment.model_validate(
        {"seed": seed, "data": {"public_fraction": 0.3} | data, "partition": IID(clients=3), "teacher": spec}
    )


@pytest.fixture(scope="module")
def digits() -> FederatedDataset:
    return federated.load(experiment())


def test_equal_specs_and_seeds_give_equal_bits(digits: FederatedDataset) -> None:
    first, second = (logits(digits, digits.test.images) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_global_generator_is_neither_read_nor_changed(digits: FederatedDataset) -> None:
    torch.manual_seed(1)
    first = logits(digits, digits.test.images)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert first.tobytes() == logits(digits, digits.test.images).tobytes()


def test_another_seed_or_spec_gives_other_logits(digits: FederatedDataset) -> None:
    plain = logits(digits, digits.test.images)
    for spec, seed in ((QUICK, 1), (Supervised(epochs=3), 0), (Supervised(epochs=2, lr=0.01), 0)):
        assert not np.array_equal(plain, logits(digits, digits.test.images, spec, seed))


def test_it_classifies_digits(digits: FederatedDataset) -> None:
    predicted = logits(digits, digits.test.images, Supervised(epochs=10))
    assert predicted.shape == (364, 10)
    assert predicted.dtype == np.float32
    assert (predicted.argmax(axis=1) == digits.test.labels).mean() > 0.8


def test_only_the_public_split_is_used(digits: FederatedDataset) -> None:
    """Changing all other images and labels does not change a bit of its logits."""
    images, labels = np.zeros_like(digits.train.images), np.zeros_like(digits.train.labels)
    images[digits.public], labels[digits.public] = (
        digits.train.images[digits.public],
        digits.train.labels[digits.public],
    )
    changed = replace(digits, train=replace(digits.train, images=images, labels=labels), shards=())
    plain, other = (logits(data, digits.test.images) for data in (digits, changed))
    assert plain.tobytes() == other.tobytes()


def test_every_public_image_is_used(digits: FederatedDataset) -> None:
    images = digits.train.images.copy()
    images[digits.public[0]] = 255 - images[digits.public[0]]
    changed = replace(digits, train=replace(digits.train, images=images))
    plain, other = (logits(data, digits.test.images) for data in (digits, changed))
    assert plain.tobytes() != other.tobytes()


def test_an_images_logits_do_not_depend_on_the_others(digits: FederatedDataset) -> None:
    """Even where the last batch is not full, every bit is the same."""
    teacher = supervised.load(Supervised(model=Proxy(norm="batch"), epochs=1), digits, 0, CPU)
    together = teacher.outputs(digits.test.images)["logits"]
    subset = np.array([300, 5, 17, 363])
    assert teacher.outputs(digits.test.images[subset])["logits"].tobytes() == together[subset].tobytes()


def test_more_images_than_a_batch(digits: FederatedDataset) -> None:
    teacher = supervised.load(QUICK, digits, 0, CPU)
    predicted = teacher.outputs(digits.train.images)["logits"]
    assert predicted.shape == (1433, 10)
    assert teacher.outputs(digits.train.images[1400:])["logits"].tobytes() == predicted[1400:].tobytes()


def test_logits_are_the_head_of_features(digits: FederatedDataset) -> None:
    teacher = supervised.load(QUICK, digits, 0, CPU)
    outputs = teacher.outputs(digits.test.images)
    assert outputs["features"].shape == (364, teacher.width) == (364, 512)
    weight, bias = teacher.head.weight.numpy(), teacher.head.bias.numpy()
    np.testing.assert_allclose(outputs["features"] @ weight.T + bias, outputs["logits"], rtol=1e-4, atol=1e-4)


def test_stand_in_of_an_experiment(digits: FederatedDataset) -> None:
    predicted = loading.load(experiment().teacher, digits, 0, CPU).outputs(digits.test.images)["logits"]
    assert predicted.tobytes() == logits(digits, digits.test.images).tobytes()


def test_read_only_images(digits: FederatedDataset) -> None:
    images = digits.test.images.copy()
    images.flags.writeable = False
    teacher = supervised.load(QUICK, digits, 0, CPU)
    assert teacher.outputs(images)["logits"].tobytes() == teacher.outputs(digits.test.images)["logits"].tobytes()


def test_an_empty_public_split_is_refused() -> None:
    """0.0001 of 1433 examples rounds to none, although public_fraction is above 0."""
    spec = experiment(public_fraction=0.0001)
    with pytest.raises(SpecError, match="public_fraction"):
        supervised.load(QUICK, federated.load(spec), 0, CPU)
