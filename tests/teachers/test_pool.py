"""What one process is asked of its teachers, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import federated
from safetensors.torch import save_model

from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import SpecError
from fedray.teachers.pool import TeacherPool
from fedray.types import TeacherQuery

CPU = torch.device("cpu")


def experiment(file: Path, **wrapped: object) -> Experiment:
    backbone = {"kind": "classifier", "model": "test_efficientnet", "pretrained": str(file), "batch_size": 4}
    teacher = {"kind": "adapted", "backbone": backbone, **wrapped} if wrapped else backbone
    data = {"train_limit": 60, "test_limit": 20}
    strategy = {"name": "fedlpfm"}
    partition = {"kind": "iid", "clients": 3}
    return Experiment.model_validate({"data": data, "partition": partition, "teacher": teacher, "strategy": strategy})


@pytest.fixture(scope="module")
def six_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits have ten classes."""
    file = tmp_path_factory.mktemp("timm") / "six.safetensors"
    torch.manual_seed(0)
    save_model(timm.create_model("test_efficientnet", num_classes=6), str(file))
    return file


@pytest.fixture(scope="module")
def data(six_outputs: Path) -> FederatedDataset:
    return federated.load(experiment(six_outputs))


def test_logits_of_other_classes_are_refused(six_outputs: Path, data: FederatedDataset) -> None:
    roster = TeacherPool(experiment(six_outputs), data, CPU)
    said = "has 6 outputs, and the data 10 classes; say which outputs mean which class"
    with pytest.raises(SpecError, match=said):
        roster.answer(TeacherQuery(0, "logits"), np.arange(4), None)
    with pytest.raises(SpecError, match=said):
        roster.online(0)


def test_features_need_no_classes_of_ours(six_outputs: Path, data: FederatedDataset) -> None:
    lesson = TeacherPool(experiment(six_outputs), data, CPU).answer(TeacherQuery(0, "features"), np.arange(6), None)
    assert lesson.values.shape == (6, timm.create_model("test_efficientnet").num_features)
    assert lesson.passes == 6
    assert lesson.flops == 6 * lesson.made_by["flops"] > 0


def test_a_probe_gives_them_a_head_for_our_classes(six_outputs: Path, data: FederatedDataset) -> None:
    roster = TeacherPool(experiment(six_outputs, method="linear_probe"), data, CPU)
    own = data.shards[0]
    features = roster.answer(TeacherQuery(0, "features"), own, None).values
    head = roster.answer(TeacherQuery(0, "head", 0), np.arange(10), features).values
    assert head.shape == (10, features.shape[1] + 1)
    right = (features @ head[:, :-1].T + head[:, -1]).argmax(axis=1) == data.train.labels[own]
    assert right.mean() > 0.5


def test_batches_beyond_the_memory_are_refused_by_name(six_outputs: Path, data: FederatedDataset) -> None:
    spec = experiment(six_outputs)
    assert spec.teacher is not None
    huge = spec.model_copy(update={"teacher": spec.teacher.model_copy(update={"batch_size": 10**12})})
    with pytest.raises(SpecError, match=r"^teacher.batch_size is 1000000000000, .* out of memory"):
        TeacherPool(huge, data, CPU).answer(TeacherQuery(0, "features"), np.arange(6), None)
