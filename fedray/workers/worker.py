"""The worker: handles the server's requests, in its own process or, with `backend: serial`, in the driver's.

A worker serves any client: a client's state arrives with its task and returns with the result.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fedray.aggregation.messages import MessageSums
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import RefusedError
from fedray.models.flops import forward_flops, training_flops
from fedray.models.weights import (
    check_message,
    check_weights,
    describe_parameters,
    get_weights,
)
from fedray.teachers.pool import TeacherPool
from fedray.teachers.targets import CachedTargets
from fedray.training.batches import ClientData, Normalization, feature_inputs, input_shape, unchanged
from fedray.training.context import ClientContext, ClientResult
from fedray.training.evaluation import EvalCounts, chunks, count_predictions
from fedray.training.local_update import Trainer
from fedray.training.phases import PhaseData
from fedray.types import (
    ArrayGroups,
    ImageShape,
    Indices,
    InitialState,
    Outcome,
    ParameterInfo,
    Range,
    TargetArrays,
    Weights,
    trained_names,
)
from fedray.workers.client_models import ClientModels, Targets, initial_model
from fedray.workers.client_phases import PreparedPhase, merge_metrics, prepare_phases
from fedray.workers.device import claim_device
from fedray.workers.outcomes import client_failure, client_update
from fedray.workers.public_data import PublicData
from fedray.workers.requests import (
    ClientTask,
    CountFlops,
    Evaluate,
    EvaluateClient,
    Initialize,
    QueryTeacher,
    R,
    Request,
    Shared,
    TrainClients,
    TrainServer,
    TryBatch,
    WorkerResult,
)
from fedray.workers.try_batch import placeholder_targets, try_batch

LOCAL = "local"
"""Group of a client's state with its parameters that are not shared."""


@dataclass(frozen=True)
class PreparedClient:
    """A client that is ready for its local epochs."""

    context: ClientContext
    trainers: Sequence[Trainer]  # of each phase
    phases: Sequence[PreparedPhase]
    targets: Targets
    start_s: float  # time.perf_counter() before its preparation


class Worker:
    """Trains clients, evaluates the proxy on parts of the test set, and runs teachers."""

    def __init__(self, experiment: Experiment, federated: FederatedDataset) -> None:
        self._experiment = experiment
        self._federated = federated
        self._device = claim_device(experiment.resources)
        normalize = Normalization.of(federated, self._device)
        self._normalize = unchanged if experiment.proxy.reads_features else normalize
        self._models = ClientModels(experiment, federated.train.shape, self._device)
        self._public = PublicData(experiment, federated, self._models, normalize)
        self._teachers = TeacherPool(experiment.teacher, federated, experiment.seed, self._device)

    def handle(self, request: Request[R]) -> WorkerResult[R]:
        """Return a request's result. An error of a client is part of the result; any other error is raised."""
        result: WorkerResult[object]
        match request:
            case TrainClients():
                result = self._train_clients(request)
            case TrainServer(number, inputs):
                result = WorkerResult(self._public.train_server(number, inputs.get()["weights"], inputs.get()))
            case Evaluate(images, broadcast, features):
                inputs = self._read(features)
                result = WorkerResult(self._evaluate(broadcast.get()["weights"], [images], inputs))
            case EvaluateClient(task, broadcast, features):
                inputs, weights = self._read(features), self._context(task, broadcast.get()).weights
                result = WorkerResult(self._evaluate(weights, chunks(len(self._federated.test)), inputs))
            case QueryTeacher(query, rows, features):
                result = WorkerResult(self._teachers.compute(query, rows, features))
            case TryBatch():
                result = WorkerResult(self._try_batch(request))
            case Initialize(shape):
                result = WorkerResult(self._initialize(shape or self._federated.train.shape))
            case CountFlops(model, shape):
                count = forward_flops if model == "frozen" else training_flops
                result = WorkerResult(count(self._models.spec(model), shape or self._federated.train.shape))
            case _:
                raise TypeError(f"a worker does not handle requests of type {type(request).__name__}.")
        return cast("WorkerResult[R]", result)

    def prepare(self, task: ClientTask, broadcast: ArrayGroups, targets: TargetArrays | None) -> PreparedClient:
        """Load a client's weights, data and targets. `targets` are its cached teacher outputs, if it needs any."""
        start_s = time.perf_counter()
        reader = self._targets(task, targets)
        data = self._client_data(self._federated.shards[task.client], reader, targets)
        self._models.shape = input_shape(data.images, self._models.shape.classes)
        context = self._context(task, broadcast)
        start = self._experiment.strategy.client_init(context)
        trainers, strategy = self._models.load(context, start, reader), self._experiment.strategy
        sources: dict[PhaseData, ClientData] = {"own": data}
        if any(phase.data == "public" for phase in strategy.phases()):
            sources["public"] = self._public.data(start.public_targets)
        phases = prepare_phases(self._experiment, task, trainers, sources, self._parameters)
        return PreparedClient(context, trainers, list(phases), reader, start_s)

    def _context(self, task: ClientTask, broadcast: ArrayGroups) -> ClientContext:
        """The client before its training, with the global weights and those of its own parameters."""
        state = dict(task.read_state())
        weights = {**broadcast["weights"], **state.pop(LOCAL, {})}
        counts, training = self._federated.class_counts[task.client], self._experiment.training
        return ClientContext(
            client=task.client,
            round=task.round,
            class_counts=counts,
            broadcast=broadcast,
            state=state,
            parameters=self._parameters,
            weights=weights,
            steps=self._experiment.strategy.round_steps(training, int(counts.sum()), len(self._federated.public)),
            lr=training.learning_rate(task.round),
            optimizer=training.optimizer,
            predict_public=self._public.logits,
        )

    def trained_weights(self, task: ClientTask) -> Weights:  # noqa: ARG002  a test's worker corrupts some clients'
        """Return the proxy's weights that the client sends to the server."""
        return get_weights(self._models.model("proxy"))

    def _train_clients(self, request: TrainClients) -> WorkerResult[Sequence[Outcome]]:
        """Train clients one after another; add up their messages if there are several."""
        broadcast, is_alone = request.broadcast.get(), len(request.tasks) == 1
        sums, outcomes, result = MessageSums(), list[Outcome](), None
        for task in request.tasks:
            targets = task.targets.get() if task.targets else None  # LostError: the whole round is retried
            try:
                client = self.prepare(task, broadcast, targets)
                parts = list[tuple[int, dict[str, float]]]()
                for phase in client.phases:
                    with self._models.freezing(phase.frozen):
                        parts.append((phase.examples, phase.train()))
                result = self._result(task, client)
                metrics = merge_metrics(parts)
                update = client_update(client.context, metrics, result, client.targets, self._device, client.start_s)
            except Exception as error:  # any error of a client is reported with the client's id
                outcomes.append(client_failure(task, error))
                if self._experiment.training.failures == "abort":
                    break
                continue
            outcomes.append(update)
            if not is_alone:
                sums.add(result.messages)
        if not is_alone or result is None:
            return WorkerResult(outcomes, sums)
        return WorkerResult(outcomes, result.messages, result.state or None)

    def _result(self, task: ClientTask, client: PreparedClient) -> ClientResult:
        """The messages and the new state of a trained client. Raises RefusedError where they cannot be added up."""
        strategy, context = self._experiment.strategy, client.context
        context.weights = self.trained_weights(task)
        if problem := check_weights(context.weights, context.received):
            raise RefusedError(f"its update was rejected: {problem}")
        result = self._prepared(strategy.client_final(context), context)
        if problem := next(filter(None, (check_message(n, m.arrays) for n, m in result.messages.items())), None):
            raise RefusedError(f"its update was rejected: {problem}")
        own = {info.name: context.weights[info.name] for info in self._parameters if not strategy.is_shared(info)}
        return replace(
            result,
            state={**self._models.client_state(client.trainers), **({LOCAL: own} if own else {}), **result.state},
        )

    def _prepared(self, result: ClientResult, context: ClientContext) -> ClientResult:
        """Let the aggregation rule change the weights that are sent, such as clip the update."""
        message = result.messages["weights"]
        arrays = self._experiment.aggregation.prepare(message.arrays, context.received, self._trained_names)
        return replace(result, messages={**result.messages, "weights": replace(message, arrays=arrays)})

    def _targets(self, task: ClientTask, targets: TargetArrays | None) -> Targets:
        teacher = self._experiment.teacher
        if teacher is None or not self._experiment.required_outputs:
            return None
        if teacher.mode == "online":
            return self._teachers.online_targets(task.client, self._experiment.strategy.required_outputs)
        if teacher.view == "plain":
            self._teachers.release()  # all outputs of plain images are cached by now: free the teachers' memory
        assert targets is not None, "cached outputs arrive with the task"
        if self._experiment.proxy.reads_features:
            return None
        return CachedTargets(targets, self._first_epoch(task), self._device)

    def _client_data(self, examples: Indices, targets: Targets, features: TargetArrays | None) -> ClientData:
        """A client's examples: images, or `features` as inputs of a proxy that reads them."""
        train = self._federated.train
        if self._experiment.proxy.reads_features:
            assert features is not None, "features arrive with the task"
            inputs = torch.from_numpy(feature_inputs(features))
        else:
            inputs = torch.from_numpy(train.images[examples])
        return ClientData(
            inputs.to(self._device),
            torch.from_numpy(train.labels[examples]).to(self._device),
            examples,
            self._normalize,
            targets,
            crop_flip=self._experiment.data.augment == "crop_flip",
            mixup=self._experiment.strategy.mixup,
        )

    def _try_batch(self, request: TryBatch) -> str:
        kinds, classes = sorted(self._experiment.strategy.required_outputs), len(self._federated.train.classes)
        targets = placeholder_targets(kinds, request.examples, classes, self._device)
        examples = self._federated.shards[request.client][: request.examples]
        shape = request.shape
        features = None if shape is None else {"features": np.zeros((1, len(examples), shape.channels), np.float32)}
        data = self._client_data(examples, targets, features)
        self._models.shape = input_shape(data.images, self._models.shape.classes)
        context = self._context(ClientTask(1, request.client), request.broadcast.get())
        return try_batch(context, self._experiment, self._federated, data, targets)

    def _first_epoch(self, task: ClientTask) -> int:
        """The number of the round's first local epoch, counted over all rounds."""
        examples = len(self._federated.shards[task.client])
        return self._experiment.strategy.round_epochs(self._experiment.training, task.round, examples).start

    @cached_property
    def _parameters(self) -> list[ParameterInfo]:
        """A description of each array of the proxy."""
        return describe_parameters(self._models.model("proxy"), self._federated.train.shape.classes)

    @cached_property
    def _trained_names(self) -> list[str]:
        return trained_names(self._parameters)

    def _initialize(self, shape: ImageShape) -> InitialState:
        model = initial_model(self._experiment.proxy, shape, self._experiment.seed, "proxy")
        gpu = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else None
        return InitialState(get_weights(model), describe_parameters(model, shape.classes), gpu)

    def _read(self, features: Shared[TargetArrays] | None) -> TargetArrays | None:
        """Read the test set's features, and set the width of the proxy that reads them; None for a proxy of images."""
        if features is None:
            return None
        self._models.shape = ImageShape(features.get()["features"].shape[2], 1, self._models.shape.classes)
        return features.get()

    def _evaluate(self, weights: Weights, ranges: Sequence[Range], features: TargetArrays | None) -> EvalCounts:
        """Count the predictions of a proxy for ranges of the test images, one range after another."""
        predict = self._models.predictor(weights, self._normalize)
        first, *others = (self._predictions(predict, slice(*images), features) for images in ranges)
        return sum(others, start=first)

    def _predictions(
        self, predict: Callable[[Tensor], Tensor], part: slice, features: TargetArrays | None
    ) -> EvalCounts:
        """Count the predictions for a part of the test images."""
        test = self._federated.test
        inputs = np.array(test.images[part]) if features is None else feature_inputs(features, part)
        images, labels = (torch.from_numpy(array).to(self._device) for array in (inputs, np.array(test.labels[part])))
        return count_predictions(predict, images, labels, len(test.classes), self._experiment.evaluation.batch_size)
