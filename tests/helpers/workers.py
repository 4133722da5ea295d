"""Workers that misbehave, for tests of what the driver and the backends make of it."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedray.types import ClientTask, Weights, WorkerResult
from fedray.workers.worker import Worker


class SlowWorker(Worker):
    """Each client takes a random while longer, so that updates arrive in any order."""

    def train(self, task: ClientTask, *others: Any) -> Any:
        time.sleep(random.Random(os.getpid() * 1000 + task.client + task.round).uniform(0, 0.3))
        return super().train(task, *others)


class FailingWorker(Worker):
    """Client 2 raises in round 2."""

    def train(self, task: ClientTask, *others: Any) -> Any:
        if (task.round, task.client) == (2, 2):
            raise ZeroDivisionError("client 2 divided by nothing")
        return super().train(task, *others)


class NotFiniteWorker(Worker):
    """Client 1 sends a NaN in round 1."""

    def _trained(self, task: ClientTask) -> Any:
        weights = super()._trained(task)
        if (task.round, task.client) == (1, 1):
            weights["classifier.1.bias"][3] = np.nan
        return weights


class MisshapenWorker(Worker):
    """Client 3 sends a bias of another shape."""

    def _trained(self, task: ClientTask) -> Any:
        weights = super()._trained(task)
        if task.client == 3:
            weights["classifier.1.bias"] = weights["classifier.1.bias"][:-1]
        return weights


class DyingWorker(Worker):
    """The process of client 0 is killed once, in round 2."""

    mark: Path

    def train(self, task: ClientTask, *others: Any) -> Any:
        if (task.round, task.client) == (2, 0) and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(task, *others)


class BrokenWorker(Worker):
    """Cannot be made."""

    def __init__(self, *_: Any) -> None:
        raise ModuleNotFoundError("No module named 'torch'")


class DyingWorkers(Worker):
    """The processes of clients 0, 1 and 3 are killed once each, in round 2."""

    marks: Path

    def train(self, task: ClientTask, *others: Any) -> Any:
        mark = self.marks / f"died {task.client}"
        if task.round == 2 and task.client != 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(task, *others)


class DeadlyWorker(Worker):
    """Client 2 kills its process whenever it is trained."""

    def train(self, task: ClientTask, *others: Any) -> Any:
        if task.client == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(task, *others)


class HangingWorker(Worker):
    """Client 2 does not come back in round 2."""

    def train(self, task: ClientTask, *others: Any) -> Any:
        time.sleep(3600 if (task.round, task.client) == (2, 2) else 0)
        return super().train(task, *others)


class TellingWorker(Worker):
    """Tells where it is."""

    def tell(self, _: ClientTask) -> Any:
        return WorkerResult((os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), torch.get_num_threads()))

    def owns_images(self, _: ClientTask) -> Any:
        images = self._federated.train.images
        return WorkerResult((images.flags.writeable, images.flags.owndata))


class AddingWorker(Worker):
    """Adds up the numbers of weights."""

    def add_up(self, weights: Weights) -> WorkerResult:
        return WorkerResult(sum(float(array.sum()) for array in weights.values()))
