"""A test of the rules that every strategy must follow: `check_strategy(MyStrategy())`."""

import hashlib
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.models.weights import WeightsFile
from fedray.results import checkpoint
from fedray.server.driver import Driver
from fedray.strategies.base import Strategy
from fedray.types import Weights

if TYPE_CHECKING:
    from fedray.workers.requests import ClientTask
    from fedray.workers.worker import Worker

ROUNDS, CLIENTS = 4, 6
DATA = {"train": "digits", "test": "digits", "train_limit": 150, "test_limit": 40, "public_fraction": 0.1}
TEACHER = {"kind": "supervised", "epochs": 1}

Bits = Mapping[str, str]
"""SHA-256 of each array: the final weights, and each client's state."""


def check_strategy(strategy: Strategy, *, ray: bool = False, **sections: object) -> None:
    """Check that a strategy trains, and that the bits of its results do not depend on how it is run.

    Trains four rounds on digits with six clients of unequal sizes, half of them in each round: twice, stopped and
    resumed, with a client whose update is dropped, with a single client and, if `ray` is true, in Ray actors.
    `sections` replace those of the experiment (`proxy`, `teacher`, `data` ...). Takes seconds; a minute with `ray`.
    Raises AssertionError with the rule that is broken, and the errors of the strategy's own methods.
    """
    with tempfile.TemporaryDirectory() as folder:
        _Checks(strategy, sections, Path(folder)).run(ray=ray)


class _Checks:
    """The runs of one strategy, each in a folder of its own."""

    def __init__(self, strategy: Strategy, sections: Mapping[str, object], folder: Path) -> None:
        self._strategy, self._sections, self._folder = strategy, sections, folder

    def run(self, *, ray: bool) -> None:
        """Run all checks; raises AssertionError at the first rule that is broken."""
        self._check_fields()
        whole = self._bits("whole")
        self._require(whole != self._bits("initial", rounds=1), "its weights do not change from round to round")
        self._require(self._bits("repeated") == whole, "two runs of the same spec have different bits")
        self._stop("resumed", after=ROUNDS // 2)
        self._require(
            self._bits("resumed") == whole,
            "a resumed run has other bits than an uninterrupted one: client_final or server_extra must return all "
            "state that a later round needs",
        )
        self._check_drop()
        self._bits("one client", clients=1)
        if ray:
            self._require(self._bits("ray", backend="ray") == whole, "Ray actors give other bits than one process")

    def _check_fields(self) -> None:
        copy = type(self._strategy).model_validate(self._strategy.model_dump(mode="json"))
        self._require(copy == self._strategy, "its fields change when they are written as JSON and read again")
        self._require("proxy" in self._strategy.objectives(), "objectives() has no loss terms for 'proxy'")

    def _check_drop(self) -> None:
        """Check that a client whose update is dropped keeps its old state."""
        experiment = self._experiment(failures="drop")
        self._drive(experiment, self._folder / "dropped", _worker_that_fails())
        states = [client for client, number in self._states("dropped").items() if number == ROUNDS]
        self._require(len(states) == self._strategy.is_stateful, "a client whose update was dropped has new state")

    def _bits(self, name: str, *, clients: int = CLIENTS, rounds: int = ROUNDS, backend: str = "serial") -> Bits:
        """Run to the end, and return the bits of the result."""
        experiment, folder = self._experiment(clients=clients, rounds=rounds, backend=backend), self._folder / name
        if backend == "ray":
            from fedray.study.session import rounds as run_rounds

            list(run_rounds(experiment, folder))
        else:
            self._drive(experiment, folder)
        arrays = {"weights": WeightsFile(folder / "model.safetensors").read()}
        for client, number in self._states(name).items():
            groups = checkpoint.client_file(folder / "checkpoint", client, number).read()
            arrays |= {f"client {client} {group}": values for group, values in groups.items()}
        return {
            f"{group} {part}": hashlib.sha256(array.tobytes()).hexdigest()
            for group, values in arrays.items()
            for part, array in values.items()
        }

    def _stop(self, name: str, after: int) -> None:
        for result in Driver(self._experiment(), self._folder / name, SerialBackend).run():
            if result.round == after:
                return

    def _states(self, name: str) -> Mapping[int, int]:
        """Return the round of each client's saved state."""
        loaded = checkpoint.load(self._folder / name / "checkpoint")
        return loaded[1] if loaded else {}

    @staticmethod
    def _drive(experiment: Experiment, folder: Path, worker: "type[Worker] | None" = None) -> None:
        backend = partial(SerialBackend, worker=worker) if worker else SerialBackend
        for _ in Driver(experiment, folder, backend).run():
            pass

    def _experiment(
        self, clients: int = CLIENTS, rounds: int = ROUNDS, backend: str = "serial", failures: str = "abort"
    ) -> Experiment:
        sections: dict[str, object] = {
            "data": DATA,
            "partition": {"kind": "dirichlet", "alpha": 0.5, "clients": clients, "min_examples": 4},
            "strategy": self._strategy,
            "training": {"rounds": rounds, "participation": 0.5, "batch_size": 16, "failures": failures},
            "resources": {"backend": backend},
        }
        if self._strategy.needs_teacher:
            sections["teacher"] = TEACHER
        return Experiment.model_validate({**sections, **self._sections})

    def _require(self, condition: bool, rule: str) -> None:
        if not condition:
            raise AssertionError(f"{type(self._strategy).__name__}: {rule}.")


def _worker_that_fails() -> "type[Worker]":
    """Return a worker whose clients fail in the last round, except the first one that trains."""
    from fedray.workers.worker import Worker

    class FailingWorker(Worker):
        has_trained = False

        def trained_weights(self, task: "ClientTask") -> Weights:
            if task.round == ROUNDS and self.has_trained:
                raise ValueError("this update is dropped by the check")
            self.has_trained = task.round == ROUNDS
            return super().trained_weights(task)

    return FailingWorker
