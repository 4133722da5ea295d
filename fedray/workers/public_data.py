"""The public split on a worker: the proxy's outputs for it, and the server's training on it."""

import time

import numpy as np
import numpy.typing as npt
import torch

from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import RefusedError, RunError
from fedray.models.weights import check_weights, get_weights, set_weights
from fedray.teachers.targets import CachedTargets
from fedray.training.batches import ClientData, Normalization
from fedray.training.local_update import Trainer, local_update
from fedray.training.phases import ServerPhase
from fedray.types import ArrayGroups, ServerTraining, TargetArrays, Weights
from fedray.workers.client_models import ClientModels

SERVER = -2
"""The server's id where random streams and messages have a client's; a teacher that is fitted has -1."""


class PublicData:
    """Evaluates and trains a worker's proxy on the public images."""

    def __init__(
        self, experiment: Experiment, federated: FederatedDataset, models: ClientModels, normalize: Normalization
    ) -> None:
        self._experiment, self._federated = experiment, federated
        self._models, self._normalize = models, normalize
        self._device = normalize.mean.device
        self._trainer: Trainer | None = None

    def logits(self, weights: Weights) -> npt.NDArray[np.float32]:
        """Return the logits [P, classes] of the proxy with these weights, in evaluation mode."""
        predict, parts = self._models.predictor(weights, self._normalize), list[npt.NDArray[np.float32]]()
        size, public = self._experiment.evaluation.batch_size, self._federated.public
        with torch.inference_mode():
            for start in range(0, len(public), size):
                images = self._federated.train.images[public[start : start + size]]
                parts.append(predict(torch.from_numpy(images).to(self._device)).float().cpu().numpy())
        return np.concatenate(parts)

    def train_server(self, number: int, weights: Weights, targets: ArrayGroups) -> ServerTraining:
        """Train a model in the strategy's server phase of a round; `targets` is its group `public_targets`.

        Raises RunError where training fails or diverges.
        """
        phase, start_s = self._experiment.strategy.server_phase(), time.perf_counter()
        assert phase is not None, "the server trains in its phase"
        try:
            self._train(phase, number, weights, targets["public_targets"])
            trained = get_weights(self._models.model("proxy"))
            if problem := check_weights(trained, weights):
                raise RefusedError(problem)
        except Exception as error:  # a model may raise anything
            reason = str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
            raise RunError(f"the server's training failed in round {number}: {reason}") from error
        return ServerTraining(trained, time.perf_counter() - start_s)

    def _train(self, phase: ServerPhase, number: int, weights: Weights, targets: TargetArrays) -> None:
        if self._trainer is None:
            training, objectives = phase.training(self._experiment.training), {"proxy": phase.objectives}
            self._trainer = Trainer({"proxy": self._models.model("proxy")}, objectives, training)
        set_weights(self._models.model("proxy"), weights)
        seed, data = self._experiment.seed, self.data(targets)
        local_update(self._trainer, data, number=number, seed=seed, client=SERVER, step_schedule=phase.schedule)

    def data(self, targets: TargetArrays) -> ClientData:
        """Return the public images, not augmented, with their targets, the same in every epoch."""
        public = self._federated.public
        reader = CachedTargets({kind: array[None] for kind, array in targets.items()}, 0, self._device)
        return ClientData.of(self._federated.train.take(public), public, self._normalize, self._device, reader)
