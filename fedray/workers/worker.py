"""The worker: handles the server's requests, in its own process or, with `backend: serial`, in the driver's.

A worker serves any client: a client's private weights arrive with its task and return with the result.
"""

import platform
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fedray.aggregation.exact_mean import ExactMean
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import RefusedError
from fedray.models.flops import training_flops
from fedray.models.precision import autocast, memory_format
from fedray.models.weights import check_weights, distance, get_weights, parameter_names, set_weights
from fedray.teachers.pool import TeacherPool, peak_bytes
from fedray.teachers.targets import CachedTargets, OnlineTargets
from fedray.training.batches import ClientData, Normalization
from fedray.training.evaluation import EvalCounts, count_predictions
from fedray.training.local_update import Trainer, local_update
from fedray.types import ClientFailure, ClientUpdate, Indices, InitialState, Outcome, TargetArrays, Weights
from fedray.workers.client_models import ClientModels, Targets, initial_model
from fedray.workers.device import claim_device
from fedray.workers.requests import (
    ClientTask,
    CountFlops,
    Evaluate,
    Initialize,
    QueryTeacher,
    R,
    Request,
    TrainClients,
    TryBatch,
    WorkerResult,
)
from fedray.workers.try_batch import placeholder_targets, try_batch


@dataclass(frozen=True)
class PreparedClient:
    """A client that is ready for its local epochs."""

    trainer: Trainer
    data: ClientData
    targets: Targets
    start: float  # time.perf_counter() before its preparation


class Worker:
    """Trains clients, evaluates the proxy on parts of the test set, and runs teachers."""

    def __init__(self, experiment: Experiment, federated: FederatedDataset) -> None:
        self._experiment = experiment
        self._federated = federated
        self._device = claim_device(experiment.resources)
        self._normalize = Normalization.of(federated, self._device)
        self._layout = memory_format(experiment.training.memory_format)
        self._models = ClientModels(experiment, federated.train.shape, self._device)
        self._teachers = TeacherPool(experiment.teacher, federated, experiment.seed, self._device)

    def handle(self, request: Request[R]) -> WorkerResult[R]:
        """Return a request's result. An error of a client is part of the result; any other error is raised."""
        result: WorkerResult[object]
        match request:
            case TrainClients():
                result = self._train_clients(request)
            case Evaluate():
                result = WorkerResult(self._evaluate(request))
            case QueryTeacher(query, rows, features):
                result = WorkerResult(self._teachers.compute(query, rows, features))
            case TryBatch():
                result = WorkerResult(self._try_batch(request))
            case Initialize():
                result = WorkerResult(self._initialize())
            case CountFlops(model):
                result = WorkerResult(training_flops(self._models.spec(model), self._federated.train.shape))
            case _:
                raise TypeError(f"a worker does not handle requests of type {type(request).__name__}.")
        return cast("WorkerResult[R]", result)

    def prepare(self, task: ClientTask, weights: Weights, targets: TargetArrays | None) -> PreparedClient:
        """Load a client's weights, data and targets. `targets` are its cached teacher outputs, if it needs any."""
        start = time.perf_counter()
        reader = self._targets(task, targets)
        trainer = self._models.load(task.client, weights, task.read_state(), reader)
        return PreparedClient(trainer, self._client_data(self._federated.shards[task.client], reader), reader, start)

    def trained_weights(self, task: ClientTask) -> Weights:  # noqa: ARG002  a test's worker corrupts some clients'
        """Return the proxy's weights that the client sends to the server."""
        return get_weights(self._models.model("proxy"))

    def _train_clients(self, request: TrainClients) -> WorkerResult[Sequence[Outcome]]:
        """Train clients one after another; add up their weights if there are several."""
        weights, seed, training = request.weights.get(), self._experiment.seed, self._experiment.training
        total, outcomes, trained = ExactMean(), list[Outcome](), None
        for task in request.tasks:
            targets = task.targets.get() if task.targets else None  # LostError: the whole round is retried
            try:
                client = self.prepare(task, weights, targets)
                metrics = local_update(client.trainer, client.data, number=task.round, seed=seed, client=task.client)
                trained = self._checked_weights(task, weights)
                update = self._update(task, client, metrics, distance(trained, weights, self._parameter_names()))
            except Exception as error:  # any error of a client is reported with the client's id
                outcomes.append(_failure(task, error))
                if training.failures == "abort":
                    break
                continue
            outcomes.append(update)
            if len(request.tasks) > 1:
                total.fold(trained, self._experiment.strategy.weight(update.examples))
        state = self._models.client_state() if trained is not None else None
        return WorkerResult(outcomes, total if len(request.tasks) > 1 else trained, state)

    def _checked_weights(self, task: ClientTask, received: Weights) -> Weights:
        """The client's weights. Raises RefusedError where they cannot be averaged."""
        trained = self.trained_weights(task)
        if problem := check_weights(trained, received):
            raise RefusedError(f"its update was rejected: {problem}")
        return trained

    def _update(
        self, task: ClientTask, client: PreparedClient, metrics: dict[str, float], update_norm: float
    ) -> ClientUpdate:
        online = client.targets if isinstance(client.targets, OnlineTargets) else None
        return ClientUpdate(
            client=task.client,
            round=task.round,
            examples=len(client.data),
            metrics=metrics | {"update_norm": update_norm},
            seconds=time.perf_counter() - client.start,
            node=platform.node(),
            device=str(self._device),
            peak_bytes=peak_bytes(self._device),
            teacher_forward_passes=online.forward_passes if online else 0,
            teacher_flops=online.flops if online else 0,
            teacher_seconds=online.seconds if online else 0.0,
        )

    def _targets(self, task: ClientTask, targets: TargetArrays | None) -> Targets:
        teacher = self._experiment.teacher
        if teacher is None or not self._experiment.strategy.required_outputs:
            return None
        if teacher.mode == "online":
            return self._teachers.online_targets(task.client, self._experiment.strategy.required_outputs)
        if teacher.view == "plain":
            self._teachers.release()  # all outputs of plain images are cached by now: free the teachers' memory
        assert targets is not None, "cached outputs arrive with the task"
        return CachedTargets(targets, self._first_epoch(task), self._device)

    def _client_data(self, examples: Indices, targets: Targets) -> ClientData:
        return ClientData.of(
            self._federated.train.take(examples),
            examples,
            self._normalize,
            self._device,
            targets,
            crop_flip=self._experiment.data.augment == "crop_flip",
            mixup=self._experiment.strategy.mixup,
        )

    def _try_batch(self, request: TryBatch) -> str:
        kinds, classes = sorted(self._experiment.strategy.required_outputs), len(self._federated.train.classes)
        targets = placeholder_targets(kinds, request.examples, classes, self._device)
        examples = self._federated.shards[request.client][: request.examples]
        data = self._client_data(examples, targets)
        return try_batch(request, self._experiment, self._federated, data, targets)

    def _first_epoch(self, task: ClientTask) -> int:
        """The number of the round's first local epoch, counted over all rounds."""
        return self._experiment.training.epochs(task.round, len(self._federated.shards[task.client])).start

    def _parameter_names(self) -> list[str]:
        return parameter_names(self._models.model("proxy"))

    def _initialize(self) -> InitialState:
        model = initial_model(self._experiment.proxy, self._federated.train.shape, self._experiment.seed, "proxy")
        gpu = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else None
        return InitialState(get_weights(model), parameter_names(model), gpu)

    def _evaluate(self, request: Evaluate) -> EvalCounts:
        proxy, test = self._models.model("proxy").eval(), self._federated.test
        set_weights(proxy, request.weights.get())
        part = slice(*request.images)
        images, labels = (
            torch.from_numpy(np.array(array[part])).to(self._device) for array in (test.images, test.labels)
        )

        def predict(batch: Tensor) -> Tensor:
            with autocast(self._device, self._experiment.training.precision):
                logits: Tensor = proxy(self._normalize(batch).contiguous(memory_format=self._layout))
            return logits

        return count_predictions(predict, images, labels, len(test.classes), self._experiment.evaluation.batch_size)


def _failure(task: ClientTask, error: Exception) -> ClientFailure:
    if isinstance(error, RefusedError):  # its traceback is not informative
        return ClientFailure(task.client, task.round, platform.node(), str(error))
    reason = f"{type(error).__name__}: {error}"
    return ClientFailure(task.client, task.round, platform.node(), reason, traceback.format_exc())
