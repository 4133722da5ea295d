"""The floor: bare PyTorch, two forked processes of one thread each, weights in shared memory.

It does only the work that every federated run needs: the clients' steps, a weighted sum and an evaluation per round.
"""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn
from workload import Precision, Workload, announce, arguments, evaluate, load, train

PROCESSES = 2


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    run(load(options.folder), options.rounds, Precision(layout, options.bfloat16))


def run(workload: Workload, rounds: int, precision: Precision) -> None:
    torch.set_num_threads(1)  # before the fork, which a thread pool does not survive
    model = workload.initial().to(memory_format=precision.memory_format)
    weights = flat(model).share_memory_()
    trainers = [Trainer(workload, precision, model, weights) for _ in range(PROCESSES)]
    torch.set_num_threads(PROCESSES)
    for number in range(1, rounds + 1):
        for trainer, clients in zip(trainers, divide(workload, workload.cohort(number)), strict=True):
            trainer.start(number, clients)
        totals = [trainer.total() for trainer in trainers]
        weights.copy_(torch.stack(totals).sum(0))
        put(model, weights)
        announce(number, rounds, evaluate(workload, model, precision))
    for trainer in trainers:
        trainer.close()


class Trainer:
    """A process that trains a part of each cohort and sums the weights."""

    def __init__(self, workload: Workload, precision: Precision, model: nn.Module, weights: Tensor) -> None:
        self._workload, self._precision, self._model, self._weights = workload, precision, model, weights
        self._total = torch.zeros_like(weights).share_memory_()
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(theirs,), daemon=True)
        self._process.start()

    def start(self, number: int, clients: Sequence[int]) -> None:
        self._connection.send((number, clients))

    def total(self) -> Tensor:
        """Return the sum of its clients' weights, each times the client's share of the cohort's examples."""
        self._connection.recv()
        return self._total

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()

    def _serve(self, connection: Connection) -> None:
        torch.set_num_threads(1)
        while (task := connection.recv()) is not None:
            self._train(*task)
            connection.send(True)

    def _train(self, number: int, clients: Sequence[int]) -> None:
        workload = self._workload
        examples = sum(map(workload.size, workload.cohort(number)))
        self._total.zero_()
        for client in clients:
            put(self._model, self._weights)
            train(workload, self._model, number, client, self._precision)
            self._total.add_(flat(self._model), alpha=workload.size(client) / examples)


def divide(workload: Workload, cohort: Sequence[int]) -> list[list[int]]:
    """Divides the cohort between the processes: largest client first, to the process with fewer examples."""
    parts: list[list[int]] = [[] for _ in range(PROCESSES)]
    loads = [0] * PROCESSES
    for client in sorted(cohort, key=workload.size, reverse=True):
        least = loads.index(min(loads))
        parts[least].append(client)
        loads[least] += workload.size(client)
    return parts


def averaged(model: nn.Module) -> list[Tensor]:
    """Return parameters and BatchNorm's means and variances, without its counters."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in averaged(model)])


@torch.no_grad()
def put(model: nn.Module, weights: Tensor) -> None:
    values = averaged(model)
    for value, part in zip(values, weights.split([value.numel() for value in values]), strict=True):
        value.copy_(part.view(value.shape))


if __name__ == "__main__":
    main()
