"""A cache key changes with everything that could change the outputs, and with nothing else."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import federated
from pydantic import TypeAdapter

import fedray
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
    """Make a small experiment with a teacher of any kind."""
    return lambda teacher, **others: small(teacher=TypeAdapter(AnyTeacher).validate_python(teacher), **others)


def key_of(experiment: Experiment, query: TeacherQuery = LOGITS, data: FederatedDataset | None = None) -> str:
    data = data or federated.load(experiment)
    threads = experiment.resources.threads
    return (
        TeacherCache()
        .entry(cache_content(query, experiment.teacher, data, seed=experiment.seed, threads=threads), 1)
        .key
    )


def query_for(kind: str) -> TeacherQuery:
    return OWN if kind == "adapted" else LOGITS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "other",
    [
        {"strategy": {"name": "fedlpfm", "lam": 0.9}},
        {"training": {"optimizer": {"lr": 0.3}, "rounds": 7, "local_epochs": 2, "participation": 0.5}},
        {"proxy": {"norm": "group"}},
        {"evaluation": {"every": 2}},
        {"resources": {"clients_per_actor": 2}},
        {"data": {"augment": "crop_flip", "test_limit": 30}},
    ],
    ids=lambda sections: next(iter(sections)),
)
def test_unrelated_sections_do_not_change_the_key(make: Make, kind: str, other: dict[str, Any]) -> None:
    query = query_for(kind)
    first = key_of(make(teacher=KINDS[kind]), query)
    assert key_of(make(teacher=KINDS[kind], **other), query) == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"view": "proxy"}, {"mode": "online"}], ids=str)
def test_view_and_mode_do_not_change_the_key(make: Make, kind: str, options: dict[str, Any]) -> None:
    query = query_for(kind)
    assert key_of(make(teacher=KINDS[kind] | options), query) == key_of(make(teacher=KINDS[kind]), query)


@pytest.mark.parametrize("kind", ["zero_shot", "classifier", "supervised"])
def test_the_partition_does_not_change_the_key(make: Make, kind: str) -> None:
    first = key_of(make(teacher=KINDS[kind]))
    assert key_of(make(teacher=KINDS[kind], partition={"kind": "iid", "clients": 7})) == first


@pytest.mark.parametrize("kind", ["zero_shot", "classifier"])
def test_seed_and_labels_do_not_change_a_pretrained_networks_key(make: Make, kind: str) -> None:
    """The seed chooses which examples `train_limit` takes, so the images are held fixed."""
    experiment = make(teacher=KINDS[kind])
    data = federated.load(experiment)
    first = key_of(experiment, data=data)
    assert key_of(make(teacher=KINDS[kind], seed=5), data=data) == first
    assert key_of(experiment, data=replace(data, public=data.public[:3])) == first
    assert key_of(experiment, data=_with_labels(data, np.arange(200))) == first


@pytest.mark.parametrize("kind", KINDS)
def test_different_queries_have_different_keys(make: Make, kind: str) -> None:
    experiment = make(teacher=KINDS[kind])
    data = federated.load(experiment)
    query = query_for(kind)
    queries = [
        query,
        replace(query, output_kind="features"),
        replace(query, augmented=True),
        replace(query, side="test"),
        replace(query, output_kind="features", augmented=True),
    ]
    assert len({key_of(experiment, query, data) for query in queries}) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_other_images_change_the_key(make: Make, kind: str) -> None:
    experiment, query = make(teacher=KINDS[kind]), query_for(kind)
    data = federated.load(experiment)
    images = data.train.images.copy()
    images[-1, 0, 7, 7] += 1
    reversed_images = replace(data, train=replace(data.train, images=data.train.images[::-1].copy()))
    changed = replace(data, train=replace(data.train, images=images))
    keys = {key_of(experiment, query, each) for each in (data, reversed_images, changed)}
    assert len(keys) == 3
    assert key_of(experiment, replace(query, side="test"), changed) not in keys


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"batch_size": 16}, {"fast_layers": False}], ids=str)
@pytest.mark.parametrize("kind", ["zero_shot", "classifier", "supervised"])
def test_precision_and_batch_size_change_bits(make: Make, kind: str, change: dict[str, Any]) -> None:
    first, other = make(teacher=KINDS[kind]), make(teacher=KINDS[kind] | change)
    assert key_of(other) != key_of(first)
    assert key_of(other, FEATURES) != key_of(first, FEATURES)


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
        assert len({key_of(make(teacher=spec)) for spec in specs}) == len(specs)

    def test_prompts_and_class_names_change_no_features(self, make: Make) -> None:
        first = key_of(make(teacher=CLIP), FEATURES)
        assert key_of(make(teacher={**CLIP, "prompts": "cifar18"}), FEATURES) == first
        assert key_of(make(teacher={**CLIP, "classes": [str(n) for n in range(10)]}), FEATURES) == first
        assert key_of(make(teacher={**CLIP, "model": "ViT-B-16"}), FEATURES) != first

    def test_prompts_count_by_their_text(self, make: Make) -> None:
        """Named or written out, and class names from the data or from the spec."""
        first = key_of(make(teacher=CLIP))
        assert key_of(make(teacher={**CLIP, "prompts": ["a photo of a {}."]})) == first
        assert key_of(make(teacher={**CLIP, "classes": [str(n) for n in range(10)]})) == first

    def test_the_datas_class_names_change_logits_not_features(self, make: Make) -> None:
        experiment = make(teacher=CLIP)
        data = federated.load(experiment)
        named = replace(data, train=replace(data.train, classes=tuple("abcdefghij")))
        assert key_of(experiment, LOGITS, named) != key_of(experiment, LOGITS, data)
        assert key_of(experiment, FEATURES, named) == key_of(experiment, FEATURES, data)

    def test_a_local_folder_counts_by_its_bytes(self, make: Make, tmp_path: Path) -> None:
        (tmp_path / "clip").mkdir()
        (tmp_path / "clip" / "weights").write_bytes(b"first")
        experiment = make(teacher={**CLIP, "model": f"local-dir:{tmp_path / 'clip'}", "pretrained": None})
        logits, features = key_of(experiment), key_of(experiment, FEATURES)
        (tmp_path / "clip" / "weights").write_bytes(b"other")
        assert key_of(experiment) != logits
        assert key_of(experiment, FEATURES) != features
        (tmp_path / "clip" / "weights").write_bytes(b"first")
        assert key_of(experiment) == logits
        moved = (tmp_path / "clip").rename(tmp_path / "moved")
        assert key_of(make(teacher={**CLIP, "model": f"local-dir:{moved}", "pretrained": None})) == logits

    def test_a_checkpoint_counts_by_its_bytes(self, make: Make, tmp_path: Path) -> None:
        weights = tmp_path / "weights.pt"
        weights.write_bytes(b"first")
        experiment = make(teacher={**CLIP, "pretrained": str(weights)})
        first = key_of(experiment)
        weights.write_bytes(b"other")
        assert key_of(experiment) != first
        weights.write_bytes(b"first")
        moved = weights.rename(tmp_path / "moved.pt")
        assert key_of(make(teacher={**CLIP, "pretrained": str(moved)})) == first


class TestClassifier:
    def test_a_file_counts_by_its_bytes(self, make: Make, tmp_path: Path) -> None:
        weights = tmp_path / "weights.safetensors"
        weights.write_bytes(b"first")
        experiment = make(teacher={**TIMM, "pretrained": f"file:{weights}"})
        first = key_of(experiment)
        weights.write_bytes(b"other")
        assert key_of(experiment) != first
        weights.write_bytes(b"first")
        moved = weights.rename(tmp_path / "moved.safetensors")
        assert key_of(make(teacher={**TIMM, "pretrained": f"file:{moved}"})) == first

    def test_model_tag_and_map_change_the_key(self, make: Make) -> None:
        mapped = {str(n): (n,) for n in range(10)}
        others = ({"model": "resnet34"}, {"pretrained": "a1_in1k"}, {"class_map": mapped})
        assert len({key_of(make(teacher={**TIMM, **other})) for other in ({}, *others)}) == 4


class TestSupervised:
    @pytest.mark.parametrize(
        "change", [{"epochs": 3}, {"lr": 0.1}, {"model": {"name": "cnn", "norm": "batch"}}], ids=str
    )
    def test_fitting_options_change_the_key(self, make: Make, change: dict[str, Any]) -> None:
        assert key_of(make(teacher=STAND_IN | change)) != key_of(make(teacher=STAND_IN))

    def test_seed_and_threads_change_the_key(self, make: Make) -> None:
        experiment = make(teacher=STAND_IN)
        data = federated.load(experiment)
        other_seed = make(teacher=STAND_IN, seed=1)
        two_threads = make(teacher=STAND_IN, resources={"cpus_per_client": 2})
        assert len({key_of(each, data=data) for each in (experiment, other_seed, two_threads)}) == 3

    def test_the_public_split_and_normalization_change_the_key(self, make: Make) -> None:
        experiment = make(teacher=STAND_IN)
        data = federated.load(experiment)
        labels = data.train.labels.copy()
        labels[data.public[0]] = (labels[data.public[0]] + 1) % 10
        others = [
            data,
            replace(data, public=data.public[:-1]),
            _with_labels(data, labels),
            replace(data, mean=data.mean + np.float32(0.01)),
            replace(data, std=data.std * np.float32(1.01)),
        ]
        assert len({key_of(experiment, data=each) for each in others}) == len(others)

    def test_labels_of_clients_do_not_change_the_key(self, make: Make) -> None:
        experiment = make(teacher=STAND_IN)
        data = federated.load(experiment)
        labels = np.zeros_like(data.train.labels)
        labels[data.public] = data.train.labels[data.public]
        assert key_of(experiment, data=_with_labels(data, labels)) == key_of(experiment, data=data)

    def test_initial_weights_count_by_their_bytes(self, make: Make, tmp_path: Path) -> None:
        weights = tmp_path / "weights.safetensors"
        weights.write_bytes(b"first")
        experiment = make(teacher={**STAND_IN, "model": {"name": "cnn", "init": f"file:{weights}"}})
        first = key_of(experiment)
        weights.write_bytes(b"other")
        assert key_of(experiment) != first


KEYS_SCRIPT = """
import json, sys
from fedray.config.experiment import Experiment
from fedray.data import federated
from fedray.teachers.cache import TeacherCache
from fedray.teachers.cache_key import cache_content
from fedray.types import TeacherQuery

for text, client in json.loads(sys.argv[1]):
    spec = Experiment.model_validate(text)
    data = federated.load(spec.data, spec.partition, spec.seed)
    content = cache_content(TeacherQuery(0, "logits", client=client), spec.teacher, data, seed=0, threads=1)
    print(TeacherCache().entry(content, 1).key)
"""


def test_an_edited_loss_changes_the_keys_of_fitted_teachers_only(make: Make, tmp_path: Path) -> None:
    """An edited training loop must not get the outputs of the teacher that the former one fitted."""
    shutil.copytree(Path(fedray.__file__).parent, tmp_path / "fedray", ignore=shutil.ignore_patterns("__pycache__"))
    teachers = {"supervised": (STAND_IN, None), "adapted": (TUNED, 1), "classifier": (TIMM, None)}
    specs = [(make(teacher=teacher).model_dump(mode="json"), client) for teacher, client in teachers.values()]

    def keys() -> dict[str, str]:
        command = [sys.executable, "-c", KEYS_SCRIPT, json.dumps(specs)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return dict(zip(teachers, done.stdout.split(), strict=True))

    first = keys()
    file = tmp_path / "fedray" / "losses" / "functional.py"
    file.write_text("# a comment\n" + file.read_text())
    assert keys() == first
    file.write_text(file.read_text() + "\nSCALE = 2\n")
    assert {name for name, key in keys().items() if key != first[name]} == {"supervised", "adapted"}


class TestAdapted:
    @pytest.mark.parametrize("change", [{"epochs": 3}, {"lr": 0.1}, {"momentum": 0.5}, {"batch_size": 8}], ids=str)
    @pytest.mark.parametrize("output_kind", ["logits", "head"])
    def test_fitting_options_change_the_key(self, make: Make, output_kind: Any, change: dict[str, Any]) -> None:
        query = replace(OWN, output_kind=output_kind)
        assert key_of(make(teacher=TUNED | change), query) != key_of(make(teacher=TUNED), query)

    def test_each_client_and_method_has_its_own_key(self, make: Make) -> None:
        tuned, probe = make(teacher=TUNED), make(teacher=PROBE)
        keys = {key_of(each, replace(OWN, client=client)) for each in (tuned, probe) for client in range(4)}
        assert len(keys) == 8

    def test_the_clients_examples_and_the_seed_change_the_key(self, make: Make) -> None:
        experiment = make(teacher=TUNED)
        data = federated.load(experiment)
        shard = data.shards[1]
        fewer = replace(data, shards=(data.shards[0], shard[:-1], *data.shards[2:]))
        labels = data.train.labels.copy()
        labels[shard[0]] = (labels[shard[0]] + 1) % 10
        keys = {key_of(experiment, OWN, each) for each in (data, fewer, _with_labels(data, labels))}
        frozen = make(teacher={**TUNED, "backbone": TIMM})
        assert len(keys) == 3
        assert key_of(make(teacher={**TUNED, "backbone": TIMM}, seed=1), OWN, data) != key_of(frozen, OWN, data)

    def test_other_clients_examples_do_not_change_the_key(self, make: Make) -> None:
        experiment = make(teacher=TUNED)
        data = federated.load(experiment)
        fewer = replace(data, shards=(data.shards[0][:-1], *data.shards[1:]))
        labels = data.train.labels.copy()
        labels[data.shards[0]] = 0
        assert key_of(experiment, OWN, fewer) == key_of(experiment, OWN, data)
        assert key_of(experiment, OWN, _with_labels(data, labels)) == key_of(experiment, OWN, data)

    def test_without_a_client_the_key_is_the_backbones(self, make: Make) -> None:
        """Features of a probe and the outputs of a check are shared by all specs with this backbone."""
        backbone = make(teacher=STAND_IN)
        for query in (LOGITS, FEATURES, replace(LOGITS, side="test")):
            assert key_of(make(teacher=PROBE), query) == key_of(backbone, query)
            assert key_of(make(teacher=TUNED), query) == key_of(backbone, query)

    def test_another_backbone_changes_the_key(self, make: Make) -> None:
        other = {**TUNED, "backbone": {**STAND_IN, "epochs": 3}}
        assert key_of(make(teacher=other), OWN) != key_of(make(teacher=TUNED), OWN)


def test_an_ensembles_member_has_the_key_of_the_single_teacher(make: Make) -> None:
    both = make(teacher={"kind": "ensemble", "teachers": [TIMM, STAND_IN]})
    data = federated.load(both)
    assert key_of(both, TeacherQuery(0, "logits"), data) == key_of(make(teacher=TIMM), LOGITS, data)
    assert key_of(both, TeacherQuery(1, "logits"), data) == key_of(make(teacher=STAND_IN), LOGITS, data)


def test_digests_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", by FIPS 180-2
    assert file_digest(tmp_path / "abc") == expected
    assert file_digest(tmp_path / "nothing") is None
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") is not None
    (tmp_path / "b" / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")


def _with_labels(data: FederatedDataset, labels: np.ndarray) -> FederatedDataset:
    return replace(data, train=replace(data.train, labels=labels))
