"""The stand-in teacher: fitted on the public split alone, the same for the same spec and seed."""

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


def test_same_spec_and_seed_same_bits(digits: FederatedDataset) -> None:
    first, second = (logits(digits, digits.test.images) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_torchs_own_generator_plays_no_part_and_is_left_alone(digits: FederatedDataset) -> None:
    torch.manual_seed(1)
    first = logits(digits, digits.test.images)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert first.tobytes() == logits(digits, digits.test.images).tobytes()


def test_other_seed_or_spec_other_logits(digits: FederatedDataset) -> None:
    plain = logits(digits, digits.test.images)
    for spec, seed in ((QUICK, 1), (Supervised(epochs=3), 0), (Supervised(epochs=2, lr=0.01), 0)):
        assert not np.array_equal(plain, logits(digits, digits.test.images, spec, seed))


def test_it_learns_digits(digits: FederatedDataset) -> None:
    found = logits(digits, digits.test.images, Supervised(epochs=10))
    assert found.shape == (364, 10)
    assert found.dtype == np.float32
    assert (found.argmax(axis=1) == digits.test.labels).mean() > 0.8


def test_it_sees_the_public_split_only(digits: FederatedDataset) -> None:
    """Its logits stay the same, bit for bit, when every other image and label is another."""
    images, labels = np.zeros_like(digits.train.images), np.zeros_like(digits.train.labels)
    images[digits.public], labels[digits.public] = (
        digits.train.images[digits.public],
        digits.train.labels[digits.public],
    )
    blind = replace(digits, train=replace(digits.train, images=images, labels=labels), shards=())
    plain, other = (logits(data, digits.test.images) for data in (digits, blind))
    assert plain.tobytes() == other.tobytes()


def test_one_public_image_matters(digits: FederatedDataset) -> None:
    images = digits.train.images.copy()
    images[digits.public[0]] = 255 - images[digits.public[0]]
    changed = replace(digits, train=replace(digits.train, images=images))
    plain, other = (logits(data, digits.test.images) for data in (digits, changed))
    assert plain.tobytes() != other.tobytes()


def test_an_images_logits_do_not_depend_on_the_others(digits: FederatedDataset) -> None:
    """The last of them fill a batch only partly; the answers are the same to the last bit."""
    teacher = supervised.load(Supervised(model=Proxy(norm="batch"), epochs=1), digits, 0, CPU)
    all_of_them = teacher.outputs(digits.test.images)["logits"]
    some = np.array([300, 5, 17, 363])
    assert teacher.outputs(digits.test.images[some])["logits"].tobytes() == all_of_them[some].tobytes()


def test_more_images_than_it_answers_at_once(digits: FederatedDataset) -> None:
    teacher = supervised.load(QUICK, digits, 0, CPU)
    found = teacher.outputs(digits.train.images)["logits"]
    assert found.shape == (1433, 10)
    assert teacher.outputs(digits.train.images[1400:])["logits"].tobytes() == found[1400:].tobytes()


def test_its_features_are_what_its_head_is_given(digits: FederatedDataset) -> None:
    teacher = supervised.load(QUICK, digits, 0, CPU)
    answers = teacher.outputs(digits.test.images)
    assert answers["features"].shape == (364, teacher.width) == (364, 512)
    weight, bias = teacher.head.weight.numpy(), teacher.head.bias.numpy()
    np.testing.assert_allclose(answers["features"] @ weight.T + bias, answers["logits"], rtol=1e-4, atol=1e-4)


def test_as_the_spec_names_it(digits: FederatedDataset) -> None:
    found = loading.load(experiment().teacher, digits, 0, CPU).outputs(digits.test.images)["logits"]
    assert found.tobytes() == logits(digits, digits.test.images).tobytes()


def test_read_only_images_as_rays_are(digits: FederatedDataset) -> None:
    images = digits.test.images.copy()
    images.flags.writeable = False
    teacher = supervised.load(QUICK, digits, 0, CPU)
    assert teacher.outputs(images)["logits"].tobytes() == teacher.outputs(digits.test.images)["logits"].tobytes()


def test_a_public_split_that_rounds_to_nothing() -> None:
    """0.0001 of 1433 examples is none: nothing to fit, although public_fraction is above 0."""
    spec = experiment(public_fraction=0.0001)
    with pytest.raises(SpecError, match="public_fraction"):
        supervised.load(QUICK, federated.load(spec), 0, CPU)
