"""Workers that misbehave, for tests of the driver and the backends."""

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fedray.types import ClientUpdate, Outcome, Weights
from fedray.workers.requests import ClientTask, R, Request, TrainClients, WorkerResult
from fedray.workers.worker import PreparedClient, Worker


class SlowWorker(Worker):
    """Each client takes a random time longer, so that updates arrive in any order."""

    def prepare(self, task: ClientTask, *others: Any) -> PreparedClient:
        time.sleep(random.Random(os.getpid() * 1000 + task.client + task.round).uniform(0, 0.3))
        return super().prepare(task, *others)


class FailingWorker(Worker):
    """Client 2 raises an error in round 2."""

    def prepare(self, task: ClientTask, *others: Any) -> PreparedClient:
        if (task.round, task.client) == (2, 2):
            raise ZeroDivisionError("client 2 divided by nothing")
        return super().prepare(task, *others)


class NotFiniteWorker(Worker):
    """Client 1 sends a NaN in round 1."""

    def trained_weights(self, task: ClientTask) -> Weights:
        weights = super().trained_weights(task)
        if (task.round, task.client) == (1, 1):
            weights["classifier.1.bias"][3] = np.nan
        return weights


class MisshapenWorker(Worker):
    """Client 3 sends a bias of another shape."""

    def trained_weights(self, task: ClientTask) -> Weights:
        weights = super().trained_weights(task)
        if task.client == 3:
            weights["classifier.1.bias"] = weights["classifier.1.bias"][:-1]
        return weights


class DyingWorker(Worker):
    """The process of client 0 is killed once, in round 2."""

    mark: Path

    def prepare(self, task: ClientTask, *others: Any) -> PreparedClient:
        if (task.round, task.client) == (2, 0) and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(task, *others)


class BrokenWorker(Worker):
    """Cannot be created."""

    def __init__(self, *_: Any) -> None:
        raise ModuleNotFoundError("No module named 'torch'")


class DyingWorkers(Worker):
    """The processes of clients 0, 1 and 3 are killed once each, in round 2."""

    marks: Path

    def prepare(self, task: ClientTask, *others: Any) -> PreparedClient:
        mark = self.marks / f"died {task.client}"
        if task.round == 2 and task.client != 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(task, *others)


class DeadlyWorker(Worker):
    """Client 2 kills its process whenever it is trained."""

    def prepare(self, task: ClientTask, *others: Any) -> PreparedClient:
        if task.client == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(task, *others)


class HangingWorker(Worker):
    """Client 2 hangs in round 2."""

    def prepare(self, task: ClientTask, *others: Any) -> PreparedClient:
        time.sleep(3600 if (task.round, task.client) == (2, 2) else 0)
        return super().prepare(task, *others)


@dataclass(frozen=True)
class ProcessInfo:
    """Facts about a worker's process and about the images that it reads."""

    process: int
    visible_gpus: str | None
    threads: int
    owns_images: bool
    may_write_images: bool


@dataclass(frozen=True)
class DescribeProcess(Request[ProcessInfo]):
    """A request that no worker but `DescribingWorker` handles."""

    client: int

    @property
    def preferred_slot(self) -> int:
        return self.client


class DescribingWorker(Worker):
    """Describes its process."""

    def handle(self, request: Request[R]) -> WorkerResult[R]:
        if not isinstance(request, DescribeProcess):
            return super().handle(request)
        flags, gpus = self._federated.train.images.flags, os.environ.get("CUDA_VISIBLE_DEVICES")
        info = ProcessInfo(os.getpid(), gpus, torch.get_num_threads(), flags.owndata, flags.writeable)
        return cast("WorkerResult[R]", WorkerResult(info))


class SummingWorker(Worker):
    """Does not train: its updates hold the sum of the client's state."""

    def _train_clients(self, request: TrainClients) -> WorkerResult[Sequence[Outcome]]:
        (task,) = request.tasks
        total = sum(float(array.sum()) for group in task.read_state().values() for array in group.values())
        return WorkerResult([ClientUpdate(task.client, task.round, 0, {"sum": total}, 0.0, "", "")])
