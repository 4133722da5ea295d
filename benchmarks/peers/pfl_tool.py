"""pfl-research: its FederatedAveraging and SimulatedBackend, in two processes that torchrun starts."""

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
Turn = tuple[int, int]
"""A round and a client: pfl's "user", so that each round has its own order of batches."""


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
    """A network as pfl wants it, with its loss and its metrics."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, images: Tensor, labels: Tensor, eval: bool = False) -> Tensor:  # noqa: A002
        self.train(not eval)
        return F.cross_entropy(self.network(images), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor, eval: bool = False) -> dict[str, Weighted]:  # noqa: A002, ARG002
        self.eval()
        answer = self.network(images)
        loss = F.cross_entropy(answer, labels, reduction="sum").item()
        right = (answer.argmax(1) == labels).sum().item()
        return {"loss": Weighted(loss, len(labels)), "accuracy": Weighted(right, len(labels))}


def federated(workload: Workload, rounds: int) -> FederatedDataset:
    """The workload's cohorts, each client's examples in the order of the round."""
    turns = [(number, client) for number in range(1, rounds + 1) for client in workload.cohort(number)]

    def user(turn: Turn) -> Dataset:
        number, client = turn
        order = workload.order(number, client)
        images, labels = workload.shards[client]
        return Dataset((images[order], labels[order]), user_id=str(client))

    draws: Iterator[Turn] = cycle(turns)  # pfl draws far ahead
    weights = {turn: workload.size(turn[1]) for turn in turns}
    return FederatedDataset(user, lambda: next(draws), user_id_to_weight=weights)


class Announcer(TrainingProcessCallback):
    """What pfl says of round 1 is the score of the first weights; it evaluates as often as everybody else."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def after_central_iteration(self, aggregate_metrics: Metrics, *_: object, **of: int) -> tuple[bool, Metrics]:
        number = of["central_iteration"] + 1
        said = {str(name): value for name, value in aggregate_metrics.to_simple_dict().items()}
        found = {name.rpartition("| ")[2]: value for name, value in said.items() if "Central val" in name}
        score = Score(found["loss"], found["accuracy"]) if number > 1 else Score(math.nan, math.nan)
        if os.environ.get("RANK", "0") == "0":
            announce(number, self._rounds, score)
        return False, Metrics()


if __name__ == "__main__":
    main()
