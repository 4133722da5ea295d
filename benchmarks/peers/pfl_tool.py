"""pfl-research: its FederatedAveraging and SimulatedBackend, in two processes of torchrun."""

import math
import os
from collections.abc import Iterator
from itertools import cycle

import torch
import torch.nn.functional as F  # noqa: N812
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from workload import Score, Workload, announce, arguments, load

NEVER = 10**6
RoundClient = tuple[int, int]
"""Round and client: a "user" of pfl, so that each round has its own batch order."""


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    workload = load(options.folder)
    network = workload.initial()
    model = PyTorchModel(
        Net(network),
        local_optimizer_create=lambda parameters, lr: torch.optim.SGD(parameters, **{**workload.sgd, "lr": lr}),
        central_optimizer=torch.optim.SGD(network.parameters(), 1.0),
    )
    users = federated(workload, options.rounds)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=options.rounds,
            evaluation_frequency=NEVER,
            train_cohort_size=len(workload.cohort(1)),
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(
            local_batch_size=workload.batch_size, local_num_epochs=1, local_learning_rate=workload.sgd["lr"]
        ),
        NNEvalHyperParams(local_batch_size=workload.evaluation_batch),
        callbacks=[
            CentralEvaluationCallback(
                Dataset(tuple(workload.test), eval_kwargs={"eval": True}),
                NNEvalHyperParams(local_batch_size=workload.evaluation_batch),
            ),
            Announcer(options.rounds),
        ],
    )


class Net(nn.Module):
    """A network with the loss and metrics that pfl requires."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, images: Tensor, labels: Tensor, eval: bool = False) -> Tensor:  # noqa: A002
        self.train(not eval)
        return F.cross_entropy(self.network(images), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor, eval: bool = False) -> dict[str, Weighted]:  # noqa: A002, ARG002
        self.eval()
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels, reduction="sum").item()
        correct = (logits.argmax(1) == labels).sum().item()
        return {"loss": Weighted(loss, len(labels)), "accuracy": Weighted(correct, len(labels))}


def federated(workload: Workload, rounds: int) -> FederatedDataset:
    """Return the workload's cohorts, with each client's examples in the order of the round."""
    users = [(number, client) for number in range(1, rounds + 1) for client in workload.cohort(number)]

    def user(user_id: RoundClient) -> Dataset:
        number, client = user_id
        order = workload.order(number, client)
        images, labels = workload.shards[client]
        return Dataset((images[order], labels[order]), user_id=str(client))

    draws: Iterator[RoundClient] = cycle(users)  # pfl draws users in advance
    weights = {user: workload.size(user[1]) for user in users}
    return FederatedDataset(user, lambda: next(draws), user_id_to_weight=weights)


class Announcer(TrainingProcessCallback):
    """Prints the end of each round. pfl evaluates before a round, so round 1 has the initial weights' score."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def after_central_iteration(self, aggregate_metrics: Metrics, *_: object, **of: int) -> tuple[bool, Metrics]:
        number = of["central_iteration"] + 1
        metrics = {str(name): value for name, value in aggregate_metrics.to_simple_dict().items()}
        score_values = {name.rpartition("| ")[2]: value for name, value in metrics.items() if "Central val" in name}
        score = Score(score_values["loss"], score_values["accuracy"]) if number > 1 else Score(math.nan, math.nan)
        if os.environ.get("RANK", "0") == "0":
            announce(number, self._rounds, score)
        return False, Metrics()


if __name__ == "__main__":
    main()
