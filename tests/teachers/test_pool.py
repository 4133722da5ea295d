"""Teacher outputs computed in one process, and the queries that are refused."""

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
    """Weights of a model with six outputs; digits have ten classes."""
    file = tmp_path_factory.mktemp("timm") / "six.safetensors"
    torch.manual_seed(0)
    save_model(timm.create_model("test_efficientnet", num_classes=6), str(file))
    return file


@pytest.fixture(scope="module")
def data(six_outputs: Path) -> FederatedDataset:
    return federated.load(experiment(six_outputs))


def test_logits_of_another_number_of_classes_are_refused(six_outputs: Path, data: FederatedDataset) -> None:
    teachers = pool(experiment(six_outputs), data)
    message = "has 6 outputs, but the data has 10 classes; map each class to outputs of the model"
    with pytest.raises(SpecError, match=message):
        teachers.compute(TeacherQuery(0, "logits"), np.arange(4), None)
    with pytest.raises(SpecError, match=message):
        teachers.online_targets(0, {"logits"})


def test_features_need_no_matching_classes(six_outputs: Path, data: FederatedDataset) -> None:
    output = pool(experiment(six_outputs), data).compute(TeacherQuery(0, "features"), np.arange(6), None)
    assert output.outputs.shape == (6, timm.create_model("test_efficientnet").num_features)
    assert output.forward_passes == 6
    assert output.flops == 6 * output.produced_by["flops"] > 0


def test_a_linear_probe_fits_a_head_for_the_datas_classes(six_outputs: Path, data: FederatedDataset) -> None:
    teachers = pool(experiment(six_outputs, method="linear_probe"), data)
    shard = data.shards[0]
    features = teachers.compute(TeacherQuery(0, "features"), shard, None).outputs
    head = teachers.compute(TeacherQuery(0, "head", 0), np.arange(10), features).outputs
    assert head.shape == (10, features.shape[1] + 1)
    is_correct = (features @ head[:, :-1].T + head[:, -1]).argmax(axis=1) == data.train.labels[shard]
    assert is_correct.mean() > 0.5


def test_a_batch_size_beyond_the_memory_is_refused(six_outputs: Path, data: FederatedDataset) -> None:
    spec = experiment(six_outputs)
    assert spec.teacher is not None
    huge = spec.model_copy(update={"teacher": spec.teacher.model_copy(update={"batch_size": 10**12})})
    with pytest.raises(SpecError, match=r"^teacher.batch_size is 1000000000000, .* out of memory"):
        pool(huge, data).compute(TeacherQuery(0, "features"), np.arange(6), None)
