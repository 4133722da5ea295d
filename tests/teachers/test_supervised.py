"""The stand-in teacher: fitted on the public split alone, the same for the same spec and seed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedray import teachers
from fedray.config import Experiment, Supervised
from fedray.data import federation
from fedray.data.federation import Federation
from fedray.data.partition import IID
from fedray.errors import SpecError
from fedray.models.proxies import Proxy
from fedray.teachers.supervised import SupervisedTeacher

CPU = torch.device("cpu")
QUICK = Supervised(epochs=2)


def experiment(spec: Supervised = QUICK, seed: int = 0, **data: Any) -> Experiment:
    return Experiment.model_validate(
        {"seed": seed, "data": {"public_fraction": 0.3} | data, "partition": IID(clients=3), "teacher": spec}
    )


@pytest.fixture(scope="module")
def digits() -> Federation:
    return federation.load(experiment())


def test_same_spec_and_seed_same_bits(digits: Federation) -> None:
    first, second = (SupervisedTeacher(QUICK, digits, 0, CPU).logits(digits.test) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_torchs_own_generator_plays_no_part_and_is_left_alone(digits: Federation) -> None:
    torch.manual_seed(1)
    first = SupervisedTeacher(QUICK, digits, 0, CPU).logits(digits.test)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert first.tobytes() == SupervisedTeacher(QUICK, digits, 0, CPU).logits(digits.test).tobytes()


def test_other_seed_or_spec_other_logits(digits: Federation) -> None:
    plain = SupervisedTeacher(QUICK, digits, 0, CPU).logits(digits.test)
    for spec, seed in ((QUICK, 1), (Supervised(epochs=3), 0), (Supervised(epochs=2, lr=0.01), 0)):
        assert not np.array_equal(plain, SupervisedTeacher(spec, digits, seed, CPU).logits(digits.test))


def test_it_learns_digits(digits: Federation) -> None:
    logits = SupervisedTeacher(Supervised(epochs=10), digits, 0, CPU).logits(digits.test)
    assert logits.shape == (364, 10)
    assert logits.dtype == np.float32
    assert (logits.argmax(axis=1) == digits.test.labels).mean() > 0.8


def test_it_sees_the_public_split_only(digits: Federation) -> None:
    """Its logits stay the same, bit for bit, when every other image and label is another."""
    images, labels = np.zeros_like(digits.train.images), np.zeros_like(digits.train.labels)
    images[digits.public], labels[digits.public] = (
        digits.train.images[digits.public],
        digits.train.labels[digits.public],
    )
    blind = replace(digits, train=replace(digits.train, images=images, labels=labels), shards=())
    plain, other = (SupervisedTeacher(QUICK, data, 0, CPU).logits(digits.test) for data in (digits, blind))
    assert plain.tobytes() == other.tobytes()


def test_one_public_image_matters(digits: Federation) -> None:
    images = digits.train.images.copy()
    images[digits.public[0]] = 255 - images[digits.public[0]]
    changed = replace(digits, train=replace(digits.train, images=images))
    plain, other = (SupervisedTeacher(QUICK, data, 0, CPU).logits(digits.test) for data in (digits, changed))
    assert plain.tobytes() != other.tobytes()


def test_an_images_logits_do_not_depend_on_the_others(digits: Federation) -> None:
    teacher = SupervisedTeacher(Supervised(model=Proxy(norm="batch"), epochs=1), digits, 0, CPU)
    all_of_them = teacher.logits(digits.test)
    some = np.array([300, 5, 17])
    np.testing.assert_allclose(teacher.logits(digits.test.take(some)), all_of_them[some], rtol=1e-4, atol=1e-5)


def test_more_images_than_it_answers_at_once(digits: Federation) -> None:
    teacher = SupervisedTeacher(QUICK, digits, 0, CPU)
    logits = teacher.logits(digits.train)
    assert logits.shape == (1433, 10)
    np.testing.assert_allclose(teacher.logits(digits.train.take(np.arange(1400, 1433))), logits[1400:], atol=1e-5)


def test_as_the_spec_names_it(digits: Federation) -> None:
    found = teachers.load(experiment(), digits, CPU).logits(digits.test)
    assert found.tobytes() == SupervisedTeacher(QUICK, digits, 0, CPU).logits(digits.test).tobytes()


def test_read_only_images_as_rays_are(digits: Federation) -> None:
    images = digits.test.images.copy()
    images.flags.writeable = False
    teacher = SupervisedTeacher(QUICK, digits, 0, CPU)
    assert teacher.logits(replace(digits.test, images=images)).tobytes() == teacher.logits(digits.test).tobytes()


def test_a_public_split_that_rounds_to_nothing() -> None:
    """0.0001 of 1433 examples is none: nothing to fit, although public_fraction is above 0."""
    spec = experiment(public_fraction=0.0001)
    with pytest.raises(SpecError, match="public_fraction"):
        teachers.load(spec, federation.load(spec), CPU)


def test_a_spec_without_a_teacher(digits: Federation) -> None:
    with pytest.raises(SpecError, match=r"the spec has no teacher to load\."):
        teachers.load(Experiment(), digits, CPU)
