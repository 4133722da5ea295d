"""BlazeFL: its pool of two processes with one torch thread each, weights in shared memory."""

import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from blazefl.core import IPCMode, ProcessPoolClientTrainer, SHMHandle, deserialize_model, serialize_model
from torch import Tensor
from workload import Workload, announce, arguments, evaluate, load, train

PROCESSES = 2


def main() -> None:
    options = arguments(__doc__).parse_args()
    mp.set_start_method("spawn")  # as in its quickstart
    workload = cached_workload(options.folder)
    model = workload.initial()
    trainer = Pool(options.folder, serialize_model(model))
    for number in range(1, options.rounds + 1):
        trainer.local_process(Task(number, serialize_model(model)), list(workload.cohort(number)))
        deserialize_model(model, mean(trainer.uplink_package()))
        torch.set_num_threads(PROCESSES)
        announce(number, options.rounds, evaluate(workload, model))
        torch.set_num_threads(1)


@cache
def cached_workload(folder: Path) -> Workload:
    """Read the workload once per process."""
    torch.set_num_threads(1)
    return load(folder)


@dataclass
class Task:
    number: int  # of the round
    parameters: Tensor


@dataclass
class Update:
    examples: int
    parameters: Any  # a tensor, or BlazeFL's handle on one in shared memory


class Pool(ProcessPoolClientTrainer):  # type: ignore[misc]
    def __init__(self, folder: Path, buffer: Tensor) -> None:
        self.num_parallels, self.device, self.device_count = PROCESSES, "cpu", 0
        self.share_dir, self.ipc_mode = Path(tempfile.mkdtemp()), IPCMode.SHARED_MEMORY
        self.stop_event = mp.Manager().Event()
        self.cache: list[Update] = []
        self._folder, self._buffer = folder, buffer

    def get_client_config(self, cid: int) -> tuple[Path, int]:
        return self._folder, cid

    def prepare_uplink_package_buffer(self) -> Update:
        return Update(0, self._buffer.clone())

    @staticmethod
    def worker(
        config: tuple[Path, int],
        payload: Task,
        device: str,  # noqa: ARG004
        stop_event: threading.Event,  # noqa: ARG004
        *,
        shm_buffer: Update,
    ) -> Update:
        folder, client = config
        workload = cached_workload(folder)
        model = workload.blank()
        deserialize_model(model, payload.parameters)
        train(workload, model, payload.number, client)
        shm_buffer.parameters.copy_(serialize_model(model))
        return Update(workload.size(client), SHMHandle())

    def uplink_package(self) -> list[Update]:
        updates, self.cache = self.cache, []
        return updates


def mean(updates: list[Update]) -> Tensor:
    """Return the mean weighted by examples."""
    examples = sum(update.examples for update in updates)
    return torch.stack([update.parameters * (update.examples / examples) for update in updates]).sum(0)


if __name__ == "__main__":
    main()
