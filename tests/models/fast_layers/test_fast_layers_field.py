"""The fields `training.fast_layers` and `teacher.fast_layers`: the same numbers with and without."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import clip, federated
from torch import nn

from fedray.config.experiment import Experiment
from fedray.models.heads import Float32Linear
from fedray.models.weights import get_weights
from fedray.teachers import zero_shot
from fedray.teachers.sections import ZeroShot
from fedray.types import Weights
from fedray.workers.client_models import initial_model
from fedray.workers.requests import ClientTask, LocalValue, TrainClients
from fedray.workers.worker import Worker

Make = Callable[..., Experiment]
FAST = "fedray.models.fast_layers"


def train(experiment: Experiment) -> tuple[Weights, set[type[nn.Module]]]:
    """One client's update (its weights less the global ones), and the classes of all modules that ran."""
    data = federated.load(experiment)
    weights = get_weights(initial_model(experiment.proxy, data.train.shape, 0, "test"))
    classes: set[type[nn.Module]] = set()
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: classes.add(type(module)))
    try:
        request = TrainClients((ClientTask(1, 0),), LocalValue({"weights": weights}))
        messages = Worker(experiment, data).handle(request).messages
    finally:
        hook.remove()
    assert isinstance(messages, dict)
    trained = messages["weights"].arrays
    return {name: trained[name] - array for name, array in weights.items()}, classes


def flat(update: Weights) -> np.ndarray:
    return np.concatenate([array.ravel() for array in update.values()])


@pytest.mark.parametrize("name", ["cnn", "resnet18", "mobilenet_v2"])
def test_both_values_train_to_the_same_weights(small: Make, name: str) -> None:
    """Up to rounding, which batch normalisation of few examples amplifies."""
    spec = {"proxy": {"name": name}, "data": {"train_limit": 60}}
    fast, fast_classes = train(small(**spec, training={"optimizer": {"lr": 1e-3}}))
    plain, classes = train(small(**spec, training={"optimizer": {"lr": 1e-3}, "fast_layers": False}))
    assert any(FAST in c.__module__ for c in fast_classes)
    assert not any(FAST in c.__module__ for c in classes)
    assert Float32Linear in classes & fast_classes
    assert np.linalg.norm(flat(fast) - flat(plain)) < 1e-3 * np.linalg.norm(flat(plain))


def test_both_values_give_the_same_teacher_outputs(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    clip.write_clip(tmp_path / "clip")
    spec = ZeroShot(model=f"local-dir:{tmp_path}/clip", pretrained=None, precision="bfloat16", batch_size=4)
    teachers = [
        zero_shot.load(spec.model_copy(update={"fast_layers": fast}), ("a", "b"), torch.device("cpu"))
        for fast in (True, False)
    ]
    classes = [{type(module).__name__ for module in teacher.backbone.modules()} for teacher in teachers]
    assert ["FastAttention" in names for names in classes] == [True, False]
    fast, plain = (teacher.outputs(images)["features"] for teacher in teachers)
    np.testing.assert_allclose(fast, plain, atol=0.02)
