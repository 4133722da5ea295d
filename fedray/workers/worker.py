"""What one process keeps between rounds, and what can be asked of it.

A worker serves any client: what belongs to a client alone (a private model) comes with the call
and goes back with the answer.
"""

import os
import platform
import time
import traceback
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedray.aggregation.exact_mean import ExactMean
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import RefusedError
from fedray.models import proxies
from fedray.models.fast_layers import use_fast_layers
from fedray.models.flops import training_flops
from fedray.models.heads import keep_head_float32
from fedray.models.precision import autocast, memory_format
from fedray.models.projection import Projected
from fedray.models.weights import check_weights, distance, get_weights, parameter_names, set_weights
from fedray.seeding import torch_rng
from fedray.teachers.cache import OutputArray
from fedray.teachers.pool import TeacherPool, peak_bytes
from fedray.teachers.targets import CachedTargets, OnlineTargets
from fedray.training import malloc
from fedray.training.batches import ClientData, Normalization
from fedray.training.evaluation import count_predictions
from fedray.training.local_update import Trainer, local_update
from fedray.types import (
    ClientFailure,
    ClientTask,
    ClientUpdate,
    Indices,
    InitialState,
    Range,
    TeacherQuery,
    Weights,
    WorkerResult,
)

Taught: TypeAlias = dict[str, npt.NDArray[np.float32]]
"""What the bank says of a client's examples: `logits` [E, n, classes] or `features` [E, n, d]."""


class Worker:
    """Trains clients, evaluates the proxy on parts of the test set, asks the teacher."""

    def __init__(self, experiment: Experiment, federated: FederatedDataset) -> None:
        self._experiment = experiment
        self._federated = federated
        self._device = claim_device(experiment)
        self._normalize = Normalization.of(federated, self._device)
        self._layout = memory_format(experiment.training.memory_format)
        self._models: dict[str, nn.Module] = {}
        self._trainers: dict[tuple[int, ...], Trainer] = {}
        self._teachers = TeacherPool(experiment.teacher, federated, experiment.seed, self._device)

    def begin(self, model: str) -> WorkerResult:
        """What a run begins with, its `model` being the proxy."""
        first = initial_model(self._experiment.proxy, self._federated, self._experiment.seed, model)
        gpu = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else None
        return WorkerResult(InitialState(get_weights(first), parameter_names(first), gpu))

    def flops(self, model: str) -> WorkerResult:
        """What an example's forward and backward pass through `model` takes."""
        spec = self._experiment.proxy if model == "proxy" else self._private_spec
        return WorkerResult(training_flops(spec, self._federated.train.shape))

    def train(self, task: ClientTask, weights: Weights, cached: Taught | None, kept: Weights | None) -> WorkerResult:
        """One client's local epochs, from the global weights and what it kept of its last ones.

        `cached` is what the bank says of its examples; None where a teacher sits here, or none is needed. Raises
        RefusedError where the new weights cannot be averaged.
        """
        start = time.perf_counter()
        strategy = self._experiment.strategy
        first_epoch = (task.round - 1) * self._experiment.training.local_epochs
        targets = self._client_targets(task.client, cached, first_epoch)
        models = self._begin(task.client, weights, kept, targets)
        shard = self._shard(task.client, targets)
        trainer, seed = self._trainer(models), self._experiment.seed
        metrics = local_update(trainer, shard, first_epoch=first_epoch, seed=seed, client=task.client)
        trained = self._trained(task)
        if problem := check_weights(trained, weights):
            raise RefusedError(f"its update is refused, {problem}")
        moved = distance(trained, weights, parameter_names(self._model("proxy")))
        update = ClientUpdate(
            task.client, task.round, len(shard), metrics | {"update_norm": moved},
            time.perf_counter() - start, platform.node(), str(self._device), peak_bytes(self._device),
            getattr(targets, "passes", 0), getattr(targets, "flops", 0), getattr(targets, "seconds", 0.0),
        )  # fmt: skip
        return WorkerResult(update, trained, get_weights(self._kept_model()) if strategy.client_model else None)

    def train_all(self, tasks: Sequence[ClientTask], weights: Weights, *given: Any) -> WorkerResult:
        """Updates or failures of clients, and their sum. `given` is what each is taught, then what each has kept."""
        sums, outcomes, made = ExactMean(), list[ClientUpdate | ClientFailure](), WorkerResult(None)
        for task, cached, kept in zip(tasks, given[: len(tasks)], given[len(tasks) :], strict=True):
            try:
                made = self.train(task, weights, cached, kept)
            except Exception as error:  # whatever a client raises is reported with the client's name
                outcomes.append(_failure(task, error))
                if self._experiment.training.failures == "abort":
                    break  # the run ends with it, whatever others come to
                continue
            outcomes.append(made.answer)
            if len(tasks) > 1 and made.weights is not None:
                sums.fold(made.weights, self._experiment.strategy.weight(made.answer.examples))
        return WorkerResult(outcomes, sums if len(tasks) > 1 else made.weights, made.kept)

    def evaluate(self, part: Range, weights: Weights) -> WorkerResult:
        """Count what the proxy with these weights predicts for a part of the test set."""
        proxy = self._model("proxy").eval()
        set_weights(proxy, weights)
        test, size = self._federated.test, self._experiment.evaluation.batch_size
        images = torch.from_numpy(np.array(test.images[slice(*part)])).to(self._device)
        labels = torch.from_numpy(np.array(test.labels[slice(*part)])).to(self._device)

        def predict(some: Tensor) -> Tensor:
            with autocast(self._device, self._experiment.training.precision):
                logits: Tensor = proxy(self._normalize(some).contiguous(memory_format=self._layout))
            return logits

        return WorkerResult(count_predictions(predict, images, labels, len(test.classes), size))

    def teach(self, question: TeacherQuery, rows: Indices, features: OutputArray | None) -> WorkerResult:
        """A teacher's answers for some rows, or the head that a probe fits to a client's features."""
        return WorkerResult(self._teachers.compute(question, rows, features))

    def _client_targets(
        self, client: int, cached: Taught | None, first_epoch: int
    ) -> CachedTargets | OnlineTargets | None:
        teacher = self._experiment.teacher
        if teacher is None or not self._experiment.strategy.required_outputs:
            return None
        if teacher.mode == "online":
            return self._teachers.online_targets(client, self._experiment.strategy.required_outputs)
        if teacher.view == "plain":
            self._teachers.release()  # they have said all they will be asked
        assert cached is not None, "the bank's answers come with the task"
        return CachedTargets(cached, first_epoch, self._device)

    def _begin(
        self, client: int, weights: Weights, kept: Weights | None, targets: CachedTargets | OnlineTargets | None
    ) -> dict[str, nn.Module]:
        """The models that the client trains, with the weights that it begins its round with."""
        set_weights(self._model("proxy"), weights)
        keeps, seed = self._experiment.strategy.client_model, self._experiment.seed
        if keeps == "private":
            set_weights(self._model("private"), kept or self._first_private_weights(client))
        if keeps != "projection":
            return {name: self._model(name) for name in self._experiment.strategy.active_objectives()}
        assert targets is not None
        projected = self._projected  # made before the seed is set, for making it draws numbers too
        with torch_rng(None, seed, "projection", client):
            projection = projected.reset(targets.width)
        if kept:
            set_weights(projection, kept)
        return {"proxy": projected}

    def _trained(self, _: ClientTask) -> Weights:
        """What the client sends back."""
        return get_weights(self._model("proxy"))

    def _kept_model(self) -> nn.Module:
        return (
            self._model("private")
            if self._experiment.strategy.client_model == "private"
            else self._projected.projection
        )

    def _trainer(self, models: dict[str, nn.Module]) -> Trainer:
        """The one that has these models' parameters: every client's, but where projections differ in width."""
        parameters = tuple(id(p) for model in models.values() for p in model.parameters())
        if parameters not in self._trainers:
            objectives = self._experiment.strategy.active_objectives()
            self._trainers[parameters] = Trainer(models, objectives, self._experiment.training)
        return self._trainers[parameters]

    @cached_property
    def _projected(self) -> Projected:
        return Projected(self._model("proxy"), len(self._federated.train.classes))

    def _model(self, name: str) -> nn.Module:
        if name not in self._models:
            spec = self._experiment.proxy if name == "proxy" else self._private_spec
            spec = spec.model_copy(update={"init": "random"})  # its weights are overwritten before each use
            model = proxies.build(spec, self._federated.train.shape).to(self._device)
            model = keep_head_float32(model, len(self._federated.train.classes))
            if self._experiment.training.fast_layers:
                use_fast_layers(model)
            self._models[name] = model.to(memory_format=self._layout)
        return self._models[name]

    @property
    def _private_spec(self) -> proxies.Proxy:
        return getattr(self._experiment.strategy, "private", None) or self._experiment.proxy

    def _first_private_weights(self, client: int) -> Weights:
        seed = self._experiment.seed
        return get_weights(initial_model(self._private_spec, self._federated, seed, "private", client))

    def _shard(self, client: int, targets: CachedTargets | OnlineTargets | None) -> ClientData:
        positions = self._federated.shards[client]
        return ClientData.of(
            self._federated.train.take(positions),
            positions,
            self._normalize,
            self._device,
            targets,
            crop_flip=self._experiment.data.augment == "crop_flip",
            mixup=self._experiment.strategy.mixup,
        )


def _failure(task: ClientTask, error: Exception) -> ClientFailure:
    if isinstance(error, RefusedError):  # where it was raised says nothing
        return ClientFailure(task.client, task.round, platform.node(), str(error))
    reason = f"{type(error).__name__}: {error}"
    return ClientFailure(task.client, task.round, platform.node(), reason, traceback.format_exc())


def initial_model(proxy: proxies.Proxy, federated: FederatedDataset, seed: int, *purpose: str | int) -> nn.Module:
    """A new model, its weights drawn for (seed, purpose)."""
    with torch_rng(None, seed, *purpose):
        return proxies.build(proxy, federated.train.shape)


def claim_device(experiment: Experiment) -> torch.device:
    """Fix what would make results depend on the machine, and take this client's share of the GPU.

    Ray shows an actor its own GPU only, so that it is always the first.
    """
    resources = experiment.resources
    torch.set_num_threads(resources.threads)
    malloc.keep_freed_memory()
    if resources.gpus_per_client == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    if resources.gpus_per_client < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus_per_client, 0)
    return torch.device("cuda", 0)
