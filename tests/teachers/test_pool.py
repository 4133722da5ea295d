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


def pool(spec: Experiment, data: FederatedDataset) -> TeacherPool:
    return TeacherPool(spec.teacher, data, spec.seed, CPU)


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
    loaded = pool(experiment(six_outputs), data)
    said = "has 6 outputs, but the data has 10 classes; map each class to outputs of the model"
    with pytest.raises(SpecError, match=said):
        loaded.compute(TeacherQuery(0, "logits"), np.arange(4), None)
    with pytest.raises(SpecError, match=said):
        loaded.online_targets(0, {"logits"})


def test_features_need_no_classes_of_ours(six_outputs: Path, data: FederatedDataset) -> None:
    lesson = pool(experiment(six_outputs), data).compute(TeacherQuery(0, "features"), np.arange(6), None)
    assert lesson.outputs.shape == (6, timm.create_model("test_efficientnet").num_features)
    assert lesson.passes == 6
    assert lesson.flops == 6 * lesson.produced_by["flops"] > 0


def test_a_probe_gives_them_a_head_for_our_classes(six_outputs: Path, data: FederatedDataset) -> None:
    loaded = pool(experiment(six_outputs, method="linear_probe"), data)
    own = data.shards[0]
    features = loaded.compute(TeacherQuery(0, "features"), own, None).outputs
    head = loaded.compute(TeacherQuery(0, "head", 0), np.arange(10), features).outputs
    assert head.shape == (10, features.shape[1] + 1)
    right = (features @ head[:, :-1].T + head[:, -1]).argmax(axis=1) == data.train.labels[own]
    assert right.mean() > 0.5


def test_batches_beyond_the_memory_are_refused_by_name(six_outputs: Path, data: FederatedDataset) -> None:
    spec = experiment(six_outputs)
    assert spec.teacher is not None
    huge = spec.model_copy(update={"teacher": spec.teacher.model_copy(update={"batch_size": 10**12})})
    with pytest.raises(SpecError, match=r"^teacher.batch_size is 1000000000000, .* out of memory"):
        pool(huge, data).compute(TeacherQuery(0, "features"), np.arange(6), None)
