"""The evaluation of a round on the workers: of the global model, or of each client's own model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fedray.backends.base import Backend, CallFailure, CallResult
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import SpecError
from fedray.results import checkpoint
from fedray.training.evaluation import EvalCounts, chunks
from fedray.training.metrics import ModelCounts, RoundMetrics
from fedray.types import ArrayGroups, ParameterInfo, TargetArrays
from fedray.workers.requests import ClientTask, Evaluate, EvaluateClient, Request, Shared


class Evaluator:
    """Evaluates rounds. Where all arrays are shared, every client has the global model.

    Otherwise a client that has trained has the shared arrays of the global model and its own ones, and the others have
    the global model.
    """

    def __init__(
        self, experiment: Experiment, backend: Backend, checkpoint_folder: Path, parameters: Sequence[ParameterInfo]
    ) -> None:
        """`checkpoint_folder` holds the clients' states; `parameters` describe the proxy. Raises SpecError."""
        self._backend, self._folder, self._data = backend, checkpoint_folder, backend.federated
        self._is_personal = not all(map(experiment.strategy.is_shared, parameters))
        check_parameters(experiment, parameters)

    def start(
        self,
        number: int,
        broadcast: Shared[ArrayGroups],
        state_rounds: Mapping[int, int],
        features: Shared[TargetArrays] | None,
    ) -> Callable[[], RoundMetrics]:
        """Start to evaluate round `number`; return a function that waits for the workers.

        `state_rounds` is the round of each client's saved state, `features` are those of the test set, if the proxy
        reads them. The function raises the first error of a worker.
        """
        clients = _holders(self._data)
        own = [client for client in clients if self._is_personal and client in state_rounds]
        files = {client: checkpoint.client_file(self._folder, client, state_rounds[client]) for client in own}
        requests: list[Request[EvalCounts]] = [
            EvaluateClient(ClientTask(number, client, state=file), broadcast, features)
            for client, file in files.items()
        ]
        if len(own) < len(clients):
            requests += [Evaluate(images, broadcast, features) for images in chunks(len(self._data.test))]
        return partial(self._collect, self._backend.run(requests), own)

    def _collect(self, results: Iterable[CallResult[EvalCounts] | CallFailure], own: Sequence[int]) -> RoundMetrics:
        """Return the metrics; `own` are the clients of the first requests, the others are parts of the global model."""
        counts: dict[int, ModelCounts] = {}
        for result in results:
            if isinstance(result, CallFailure):
                raise result.error
            counts[result.index] = ModelCounts.of(result.value)  # without the predictions of thousands of clients
        ordered = [counts[index] for index in sorted(counts)]
        models, parts = dict(zip(own, ordered, strict=False)), ordered[len(own) :]
        shared = [sum(parts[1:], start=parts[0])] if parts else []
        clients, test = _holders(self._data), self._data.test
        return RoundMetrics(
            "client" if self._is_personal else "global",
            [models[client] if client in models else shared[0] for client in clients] if self._is_personal else shared,
            np.bincount(test.labels, minlength=len(test.classes)),
            clients,
            self._data.partition_counts[clients],
        )


def check_parameters(experiment: Experiment, parameters: Sequence[ParameterInfo]) -> None:
    """Raise SpecError if the strategy cannot train a proxy with these arrays."""
    strategy = experiment.strategy
    if problem := strategy.problem(parameters):
        raise SpecError(f"strategy.name is '{strategy.name}', but {problem}.")
    if not strategy.is_stateful and not all(map(strategy.is_shared, parameters)):
        raise SpecError(
            f"strategy '{strategy.name}' keeps arrays on the clients: its class must set keeps_state to True."
        )


def _holders(data: FederatedDataset) -> list[int]:
    """The clients of the partition that hold examples."""
    return np.flatnonzero(data.partition_counts.sum(axis=1)).tolist()
