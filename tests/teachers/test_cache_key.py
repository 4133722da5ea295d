"""The address of an answer: it changes with what could change the answer, and with nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import federated
from pydantic import TypeAdapter

from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.teachers.cache import TeacherCache
from fedray.teachers.cache_key import cache_content, file_digest
from fedray.teachers.sections import AnyTeacher
from fedray.types import TeacherQuery

Make = Callable[..., Experiment]

LOGITS, FEATURES = TeacherQuery(0, "logits"), TeacherQuery(0, "features")
OWN = TeacherQuery(0, "logits", client=1)
CLIP = {"kind": "zero_shot", "model": "ViT-B-32", "pretrained": "openai"}
TIMM = {"kind": "classifier", "model": "resnet18"}
STAND_IN = {"kind": "supervised", "epochs": 2}
PROBE = {"kind": "adapted", "backbone": STAND_IN}
TUNED = {**PROBE, "method": "fine_tune"}
KINDS = {"zero_shot": CLIP, "classifier": TIMM, "supervised": STAND_IN, "adapted": TUNED}


@pytest.fixture
def make(small: Make) -> Make:
    """A small experiment with a teacher of any kind."""
    return lambda teacher, **others: small(teacher=TypeAdapter(AnyTeacher).validate_python(teacher), **others)


def address(experiment: Experiment, question: TeacherQuery = LOGITS, data: FederatedDataset | None = None) -> str:
    return TeacherCache().entry(cache_content(question, experiment, data or federated.load(experiment)), 1).key


def question_for(kind: str) -> TeacherQuery:
    return OWN if kind == "adapted" else LOGITS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "other",
    [
        {"strategy": {"name": "fedlpfm", "lam": 0.9}},
        {"training": {"lr": 0.3, "rounds": 7, "local_epochs": 2, "participation": 0.5}},
        {"proxy": {"norm": "group"}},
        {"evaluation": {"every": 2}},
        {"resources": {"clients_per_actor": 2}},
        {"data": {"augment": "crop_flip", "test_limit": 30}},
    ],
    ids=lambda sections: next(iter(sections)),
)
def test_what_the_teacher_does_not_know_of_plays_no_part(make: Make, kind: str, other: dict[str, Any]) -> None:
    question = question_for(kind)
    first = address(make(teacher=KINDS[kind]), question)
    assert address(make(teacher=KINDS[kind], **other), question) == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("served", [{"view": "proxy"}, {"mode": "online"}], ids=str)
def test_how_answers_are_served_plays_no_part(make: Make, kind: str, served: dict[str, Any]) -> None:
    question = question_for(kind)
    assert address(make(teacher=KINDS[kind] | served), question) == address(make(teacher=KINDS[kind]), question)


@pytest.mark.parametrize("kind", ["zero_shot", "classifier", "supervised"])
def test_who_holds_which_example_plays_no_part(make: Make, kind: str) -> None:
    first = address(make(teacher=KINDS[kind]))
    assert address(make(teacher=KINDS[kind], partition={"kind": "iid", "clients": 7})) == first


@pytest.mark.parametrize("kind", ["zero_shot", "classifier"])
def test_a_frozen_network_knows_neither_seed_nor_labels(make: Make, kind: str) -> None:
    """The seed chooses which examples `train_limit` takes, so the images are held fixed."""
    experiment = make(teacher=KINDS[kind])
    data = federated.load(experiment)
    first = address(experiment, data=data)
    assert address(make(teacher=KINDS[kind], seed=5), data=data) == first
    assert address(experiment, data=replace(data, public=data.public[:3])) == first
    assert address(experiment, data=_labelled(data, np.arange(200))) == first


@pytest.mark.parametrize("kind", KINDS)
def test_questions_about_other_things_have_other_addresses(make: Make, kind: str) -> None:
    experiment = make(teacher=KINDS[kind])
    data = federated.load(experiment)
    question = question_for(kind)
    asked = [
        question,
        replace(question, output_kind="features"),
        replace(question, augmented=True),
        replace(question, side="test"),
        replace(question, output_kind="features", augmented=True),
    ]
    assert len({address(experiment, each, data) for each in asked}) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_other_images(make: Make, kind: str) -> None:
    experiment, question = make(teacher=KINDS[kind]), question_for(kind)
    data = federated.load(experiment)
    images = data.train.images.copy()
    images[-1, 0, 7, 7] += 1
    turned = replace(data, train=replace(data.train, images=data.train.images[::-1].copy()))
    changed = replace(data, train=replace(data.train, images=images))
    keys = {address(experiment, question, each) for each in (data, turned, changed)}
    assert len(keys) == 3
    assert address(experiment, replace(question, side="test"), changed) not in keys


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"batch_size": 16}, {"fast_layers": False}], ids=str)
@pytest.mark.parametrize("kind", ["zero_shot", "classifier", "supervised"])
def test_precision_and_batch_size_change_bits(make: Make, kind: str, change: dict[str, Any]) -> None:
    first, other = make(teacher=KINDS[kind]), make(teacher=KINDS[kind] | change)
    assert address(other) != address(first)
    assert address(other, FEATURES) != address(first, FEATURES)


class TestZeroShot:
    def test_prompts_and_class_names_change_logits(self, make: Make) -> None:
        specs = [
            CLIP,
            {**CLIP, "prompts": "cifar18"},
            {**CLIP, "prompts": ["a digit: {}."]},
            {**CLIP, "classes": [f"the number {n}" for n in range(10)]},
            {**CLIP, "model": "ViT-B-16"},
            {**CLIP, "pretrained": "laion400m_e32"},
        ]
        assert len({address(make(teacher=spec)) for spec in specs}) == len(specs)

    def test_prompts_and_class_names_change_no_features(self, make: Make) -> None:
        first = address(make(teacher=CLIP), FEATURES)
        assert address(make(teacher={**CLIP, "prompts": "cifar18"}), FEATURES) == first
        assert address(make(teacher={**CLIP, "classes": [str(n) for n in range(10)]}), FEATURES) == first
        assert address(make(teacher={**CLIP, "model": "ViT-B-16"}), FEATURES) != first

    def test_prompts_count_by_what_they_say(self, make: Make) -> None:
        """By name, or written out; the data's own classes, or the same as a list."""
        first = address(make(teacher=CLIP))
        assert address(make(teacher={**CLIP, "prompts": ["a photo of a {}."]})) == first
        assert address(make(teacher={**CLIP, "classes": [str(n) for n in range(10)]})) == first

    def test_the_datas_class_names_change_logits_but_no_features(self, make: Make) -> None:
        experiment = make(teacher=CLIP)
        data = federated.load(experiment)
        named = replace(data, train=replace(data.train, classes=tuple("abcdefghij")))
        assert address(experiment, LOGITS, named) != address(experiment, LOGITS, data)
        assert address(experiment, FEATURES, named) == address(experiment, FEATURES, data)

    def test_a_local_folder_counts_by_its_bytes(self, make: Make, tmp_path: Path) -> None:
        (tmp_path / "clip").mkdir()
        (tmp_path / "clip" / "weights").write_bytes(b"first")
        experiment = make(teacher={**CLIP, "model": f"local-dir:{tmp_path / 'clip'}", "pretrained": None})
        logits, features = address(experiment), address(experiment, FEATURES)
        (tmp_path / "clip" / "weights").write_bytes(b"other")
        assert address(experiment) != logits
        assert address(experiment, FEATURES) != features
        (tmp_path / "clip" / "weights").write_bytes(b"first")
        assert address(experiment) == logits
        moved = (tmp_path / "clip").rename(tmp_path / "moved")
        assert address(make(teacher={**CLIP, "model": f"local-dir:{moved}", "pretrained": None})) == logits

    def test_a_checkpoint_counts_by_its_bytes(self, make: Make, tmp_path: Path) -> None:
        weights = tmp_path / "weights.pt"
        weights.write_bytes(b"first")
        experiment = make(teacher={**CLIP, "pretrained": str(weights)})
        first = address(experiment)
        weights.write_bytes(b"other")
        assert address(experiment) != first
        weights.write_bytes(b"first")
        moved = weights.rename(tmp_path / "moved.pt")
        assert address(make(teacher={**CLIP, "pretrained": str(moved)})) == first


class TestClassifier:
    def test_a_file_counts_by_its_bytes(self, make: Make, tmp_path: Path) -> None:
        weights = tmp_path / "weights.safetensors"
        weights.write_bytes(b"first")
        experiment = make(teacher={**TIMM, "pretrained": f"file:{weights}"})
        first = address(experiment)
        weights.write_bytes(b"other")
        assert address(experiment) != first
        weights.write_bytes(b"first")
        moved = weights.rename(tmp_path / "moved.safetensors")
        assert address(make(teacher={**TIMM, "pretrained": f"file:{moved}"})) == first

    def test_another_model_tag_or_map(self, make: Make) -> None:
        mapped = {str(n): (n,) for n in range(10)}
        others = ({"model": "resnet34"}, {"pretrained": "a1_in1k"}, {"class_map": mapped})
        assert len({address(make(teacher={**TIMM, **other})) for other in ({}, *others)}) == 4


class TestSupervised:
    @pytest.mark.parametrize(
        "change", [{"epochs": 3}, {"lr": 0.1}, {"model": {"name": "cnn", "norm": "batch"}}], ids=str
    )
    def test_how_it_is_fitted(self, make: Make, change: dict[str, Any]) -> None:
        assert address(make(teacher=STAND_IN | change)) != address(make(teacher=STAND_IN))

    def test_the_seed_and_the_threads(self, make: Make) -> None:
        experiment = make(teacher=STAND_IN)
        data = federated.load(experiment)
        other_seed = make(teacher=STAND_IN, seed=1)
        two_threads = make(teacher=STAND_IN, resources={"cpus_per_client": 2})
        assert len({address(each, data=data) for each in (experiment, other_seed, two_threads)}) == 3

    def test_the_public_split_its_labels_and_how_images_are_normalised(self, make: Make) -> None:
        experiment = make(teacher=STAND_IN)
        data = federated.load(experiment)
        labels = data.train.labels.copy()
        labels[data.public[0]] = (labels[data.public[0]] + 1) % 10
        others = [
            data,
            replace(data, public=data.public[:-1]),
            _labelled(data, labels),
            replace(data, mean=data.mean + np.float32(0.01)),
            replace(data, std=data.std * np.float32(1.01)),
        ]
        assert len({address(experiment, data=each) for each in others}) == len(others)

    def test_labels_that_clients_hold_play_no_part(self, make: Make) -> None:
        experiment = make(teacher=STAND_IN)
        data = federated.load(experiment)
        labels = np.zeros_like(data.train.labels)
        labels[data.public] = data.train.labels[data.public]
        assert address(experiment, data=_labelled(data, labels)) == address(experiment, data=data)

    def test_weights_that_it_begins_with_count_by_their_bytes(self, make: Make, tmp_path: Path) -> None:
        weights = tmp_path / "weights.safetensors"
        weights.write_bytes(b"first")
        experiment = make(teacher={**STAND_IN, "model": {"name": "cnn", "init": f"file:{weights}"}})
        first = address(experiment)
        weights.write_bytes(b"other")
        assert address(experiment) != first


class TestAdapted:
    @pytest.mark.parametrize("change", [{"epochs": 3}, {"lr": 0.1}, {"momentum": 0.5}, {"batch_size": 8}], ids=str)
    @pytest.mark.parametrize("output_kind", ["logits", "head"])
    def test_how_it_is_fitted(self, make: Make, output_kind: Any, change: dict[str, Any]) -> None:
        question = replace(OWN, output_kind=output_kind)
        assert address(make(teacher=TUNED | change), question) != address(make(teacher=TUNED), question)

    def test_each_client_has_its_own_and_a_probe_is_not_a_fine_tuned_tower(self, make: Make) -> None:
        tuned, probe = make(teacher=TUNED), make(teacher=PROBE)
        keys = {address(each, replace(OWN, client=client)) for each in (tuned, probe) for client in range(4)}
        assert len(keys) == 8

    def test_the_clients_examples_their_labels_and_the_seed(self, make: Make) -> None:
        experiment = make(teacher=TUNED)
        data = federated.load(experiment)
        own = data.shards[1]
        fewer = replace(data, shards=(data.shards[0], own[:-1], *data.shards[2:]))
        labels = data.train.labels.copy()
        labels[own[0]] = (labels[own[0]] + 1) % 10
        keys = {address(experiment, OWN, each) for each in (data, fewer, _labelled(data, labels))}
        frozen = make(teacher={**TUNED, "backbone": TIMM})
        assert len(keys) == 3
        assert address(make(teacher={**TUNED, "backbone": TIMM}, seed=1), OWN, data) != address(frozen, OWN, data)

    def test_the_other_clients_examples_play_no_part(self, make: Make) -> None:
        experiment = make(teacher=TUNED)
        data = federated.load(experiment)
        fewer = replace(data, shards=(data.shards[0][:-1], *data.shards[1:]))
        labels = data.train.labels.copy()
        labels[data.shards[0]] = 0
        assert address(experiment, OWN, fewer) == address(experiment, OWN, data)
        assert address(experiment, OWN, _labelled(data, labels)) == address(experiment, OWN, data)

    def test_before_it_is_adapted_it_is_its_backbone(self, make: Make) -> None:
        """A probe's features, and what `check` asks, are found by everyone who uses the same backbone."""
        backbone = make(teacher=STAND_IN)
        for question in (LOGITS, FEATURES, replace(LOGITS, side="test")):
            assert address(make(teacher=PROBE), question) == address(backbone, question)
            assert address(make(teacher=TUNED), question) == address(backbone, question)

    def test_another_backbone(self, make: Make) -> None:
        other = {**TUNED, "backbone": {**STAND_IN, "epochs": 3}}
        assert address(make(teacher=other), OWN) != address(make(teacher=TUNED), OWN)


def test_one_of_several_is_found_by_whoever_has_it_alone(make: Make) -> None:
    both = make(teacher={"kind": "ensemble", "teachers": [TIMM, STAND_IN]})
    data = federated.load(both)
    assert address(both, TeacherQuery(0, "logits"), data) == address(make(teacher=TIMM), LOGITS, data)
    assert address(both, TeacherQuery(1, "logits"), data) == address(make(teacher=STAND_IN), LOGITS, data)


def test_digests_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", by FIPS 180-2
    assert file_digest(tmp_path / "abc") == known
    assert file_digest(tmp_path / "nothing") is None
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") is not None
    (tmp_path / "b" / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")


def _labelled(data: FederatedDataset, labels: np.ndarray) -> FederatedDataset:
    return replace(data, train=replace(data.train, labels=labels))
