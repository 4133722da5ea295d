"""What one process keeps between rounds, and what can be asked of it.

A worker serves any client: what belongs to a client alone (a private model) comes with the call
and goes back with the answer. Every method returns the answer, which travels to the driver, and
what the client keeps, which need not.
"""

import os
import platform
import time
from functools import cached_property

import numpy as np
import torch
from torch import nn

from fedray import teachers
from fedray.client import Normalization, Shard, local_update, memory_format
from fedray.config import Experiment
from fedray.data.federation import Federation
from fedray.evaluation import Tally, tally
from fedray.models import proxies
from fedray.models.weights import get_weights, set_weights
from fedray.seeding import torch_rng
from fedray.teachers.base import Logits
from fedray.types import ClientTask, ClientUpdate, Weights

Range = tuple[int, int]


class Worker:
    """Trains clients, evaluates the proxy on parts of the test set, asks the teacher."""

    def __init__(self, experiment: Experiment, federation: Federation) -> None:
        self._experiment = experiment
        self._federation = federation
        self._device = claim_device(experiment)
        self._normalize = Normalization.of(federation, self._device)
        self._models: dict[str, nn.Module] = {}

    def train(
        self, task: ClientTask, weights: Weights, taught: Logits | None, kept: Weights | None
    ) -> tuple[ClientUpdate, Weights | None]:
        """One client's local epochs, from the global weights and its own private model if it has one."""
        start = time.perf_counter()
        objectives = self._experiment.strategy.active_objectives()
        models = {name: self._model(name) for name in objectives}
        set_weights(models["proxy"], weights)
        if "private" in models:
            set_weights(models["private"], kept or self._first_private_weights(task.client))
        shard = self._shard(task.client, taught)
        training = self._experiment.training
        metrics = local_update(
            models,
            objectives,
            shard,
            training,
            first_epoch=(task.round - 1) * training.local_epochs,
            seed=self._experiment.seed,
            client=task.client,
        )
        update = ClientUpdate(
            task.client, task.round, get_weights(models["proxy"]), len(shard), metrics,
            time.perf_counter() - start, platform.node(), str(self._device),
        )  # fmt: skip
        return update, get_weights(models["private"]) if "private" in models else None

    def evaluate(self, part: Range, weights: Weights) -> tuple[Tally, None]:
        """Count what the proxy with these weights predicts for a part of the test set."""
        proxy = self._model("proxy")
        set_weights(proxy, weights)
        test, size = self._federation.test, self._experiment.evaluation.batch_size
        images = torch.from_numpy(np.array(test.images[slice(*part)])).to(self._device)
        labels = torch.from_numpy(np.array(test.labels[slice(*part)])).to(self._device)
        pictures = self._normalize(images).contiguous(memory_format=memory_format(self._experiment.training))
        return tally(proxy, pictures, labels, len(test.classes), size), None

    def teach(self, part: Range) -> tuple[Logits, None]:
        """The teacher's logits for a part of the training set. Loads the teacher on first use."""
        positions = np.arange(*part)
        return self._teacher.logits(self._federation.train.take(positions)), None

    @cached_property
    def _teacher(self) -> teachers.Teacher:
        return teachers.load(self._experiment, self._federation, self._device)

    def _model(self, name: str) -> nn.Module:
        if name not in self._models:
            spec = self._experiment.proxy if name == "proxy" else self._private_spec
            spec = spec.model_copy(update={"init": "random"})  # its weights are overwritten before each use
            model = proxies.build(spec, self._federation.train.shape).to(self._device)
            self._models[name] = model.to(memory_format=memory_format(self._experiment.training))
        return self._models[name]

    @property
    def _private_spec(self) -> proxies.Proxy:
        return getattr(self._experiment.strategy, "private", None) or self._experiment.proxy

    def _first_private_weights(self, client: int) -> Weights:
        return initial_weights(self._private_spec, self._federation, self._experiment.seed, "private", client)

    def _shard(self, client: int, taught: Logits | None) -> Shard:
        positions = self._federation.shards[client]
        return Shard.of(
            self._federation.train.take(positions),
            positions,
            None if taught is None else taught[positions],
            self._normalize,
            self._device,
            crop_flip=self._experiment.data.augment == "crop_flip",
        )


def initial_weights(proxy: proxies.Proxy, federation: Federation, seed: int, *purpose: str | int) -> Weights:
    """A new model's weights, drawn for (seed, purpose)."""
    with torch_rng(None, seed, *purpose):
        return get_weights(proxies.build(proxy, federation.train.shape))


def claim_device(experiment: Experiment) -> torch.device:
    """Fix what would make results depend on the machine, and take this client's share of the GPU.

    Ray shows an actor its own GPU only, so that it is always the first.
    """
    resources = experiment.resources
    torch.set_num_threads(resources.threads)
    if resources.gpus_per_client == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    if resources.gpus_per_client < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus_per_client, 0)
    return torch.device("cuda", 0)
