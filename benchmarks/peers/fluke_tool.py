"""fluke: its FedAVG in one process with two torch threads; its parallel mode needs at least two GPUs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.client import Client
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.server import Server
from fluke.utils import FederationObserver, ServerObserver
from torch import Tensor, nn
from workload import Score, Workload, announce, arguments, load

THREADS = 2


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(THREADS)
    workload = load(options.folder)
    environment = FlukeENV()
    environment.set_device("cpu")
    environment.set_evaluator(ClassificationEval(eval_every=1, n_classes=workload.classes))
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=True)
    loaders = [Ordered(workload, client) for client in range(len(workload.shards))]
    algorithm = Averaging(workload, loaders)
    algorithm.set_callbacks([Announcer(options.rounds, loaders)])
    algorithm.run(options.rounds, len(workload.cohort(1)) / len(workload.shards))


class Ordered(FastDataLoader):  # type: ignore[misc]
    """Loads a client's examples in the workload's order for the round."""

    def __init__(self, workload: Workload, client: int) -> None:
        super().__init__(*workload.shards[client], num_labels=workload.classes, batch_size=workload.batch_size)
        self._workload, self._client = workload, client
        self.round = 0

    def __iter__(self) -> Any:
        order: Tensor = self._workload.order(self.round, self._client)
        self.tensors = [tensor[order] for tensor in self._workload.shards[self._client]]
        return super().__iter__()


class SharedCohorts(Server):  # type: ignore[misc]
    """Uses the workload's cohorts instead of fluke's sampling, and adds the loss to fluke's metrics."""

    workload: Workload
    loaders: Sequence[Ordered]

    def get_eligible_clients(self, eligible_perc: float) -> Sequence[Client]:  # noqa: ARG002
        return [self.clients[client] for client in self.workload.cohort(self.loaders[0].round)]

    def evaluate(
        self,
        evaluator: ClassificationEval,
        test_set: FastDataLoader,
        round: int,  # noqa: A002
    ) -> dict[str, float]:
        metrics: dict[str, float] = evaluator.evaluate(round, self.model, test_set, loss_fn=nn.CrossEntropyLoss())
        return metrics


class Averaging(FedAVG):  # type: ignore[misc]
    """FedAVG on the loaders of the workload."""

    def __init__(self, workload: Workload, loaders: Sequence[Ordered]) -> None:
        self._workload, self._loaders = workload, loaders
        size = workload.evaluation_batch
        test = FastDataLoader(*workload.test, num_labels=workload.classes, batch_size=size)
        clients = len(loaders)
        data = DataSplitter(DummyDataContainer(loaders, [None] * clients, test, num_classes=workload.classes))
        super().__init__(clients, data, parameters(workload))

    def get_server_class(self) -> type[Server]:
        return type("Bound", (SharedCohorts,), {"workload": self._workload, "loaders": self._loaders})


def parameters(workload: Workload) -> DDict:
    """Return fluke's configuration; without persistency, momentum starts each round at zero as in the other tools."""
    return DDict(
        model=workload.initial(),
        client=DDict(
            batch_size=workload.batch_size, local_epochs=1, loss="CrossEntropyLoss", persistency=False,
            optimizer=DDict(name="SGD", **workload.sgd), scheduler=DDict(name="StepLR", step_size=1, gamma=1),
        ),
        server=DDict(weighted=True),
    )  # fmt: skip


class Announcer(ServerObserver, FederationObserver):  # type: ignore[misc]
    """Passes the round's number to the loaders, and prints the end of each round."""

    def __init__(self, rounds: int, loaders: Sequence[Ordered]) -> None:
        self._rounds, self._loaders = rounds, loaders
        self._score = Score(float("nan"), float("nan"))

    def start_round(self, round: int, global_model: nn.Module) -> None:  # noqa: A002, ARG002
        for loader in self._loaders:
            loader.round = round

    def server_evaluation(self, round: int, eval_type: str, evals: Mapping[str, float], **_: Any) -> None:  # noqa: A002, ARG002
        self._score = Score(evals["loss"], evals["accuracy"])

    def end_round(self, round: int) -> None:  # noqa: A002
        announce(round, self._rounds, self._score)


if __name__ == "__main__":
    main()
