"""Counted FLOPs agree with torch's FlopCounterMode."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedray.models.flops import count_flops

MODELS = {
    "residual": lambda: torchvision.models.resnet18(num_classes=10),
    "depthwise": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "attention": lambda: nn.TransformerEncoderLayer(32, 4, 64),
}
IMAGES = {"attention": (5, 2, 32)}


@pytest.mark.parametrize("name", MODELS)
def test_training_step_counts_as_many_flops_as_torch(name: str) -> None:
    model, images = MODELS[name](), torch.zeros(IMAGES.get(name, (2, 3, 32, 32)))

    def step() -> None:
        model(images).sum().backward()

    with FlopCounterMode(display=False) as reference:
        step()
    assert count_flops(step) == reference.get_total_flops() > 0


SCRIPT = """
import sys
from fedray.config.experiment import Experiment
from fedray.data import federated
from fedray.workers.requests import ClientTask, CountFlops, Evaluate, Initialize, LocalValue, TrainClients
from fedray.workers.worker import Worker

experiment = Experiment.model_validate({
    "data": {"train": "digits", "test": "digits", "train_limit": 200, "test_limit": 60},
    "partition": {"kind": "iid", "clients": 2}, "training": {"rounds": 1}, "strategy": {"name": "fedprox"},
})
worker = Worker(experiment, federated.load(experiment.data, experiment.partition, experiment.seed))
weights = LocalValue({"weights": worker.handle(Initialize()).value.weights})
outcomes = worker.handle(TrainClients((ClientTask(1, 0), ClientTask(1, 1)), weights)).value
worker.handle(Evaluate((0, 60), weights))
worker.handle(CountFlops("proxy"))
assert len(outcomes) == 2
print("torch._dynamo" in sys.modules, "torch._inductor" in sys.modules, "sympy" in sys.modules)
"""


def test_worker_does_not_import_the_compiler() -> None:
    """Importing it takes two seconds and 75 MB in every process."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3
