"""Runs of algorithms, and what their second implementations need: inputs and local SGD in float64.

Six clients of unequal sizes train for four rounds, three of them in each. The update of client 2 is dropped in round 2;
it has trained in round 1, and trains again in round 4.

A test of an algorithm compares `run(experiment(strategy, momentum), folder)` with its oracle, which starts from
`new_model`, and trains the `contributors` of each round with `sgd`:

    run = algorithms.run(algorithms.experiment({"name": "fedavg"}, momentum=0.9), tmp_path)
    run.assert_weights(fedavg(run.clients, momentum=0.9))
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from oracles.inputs import Client, clients_of
from torch import Tensor, nn

from fedray.backends.base import MakeBackend
from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.models.proxies import build
from fedray.results import checkpoint
from fedray.seeding import numpy_rng, torch_rng
from fedray.server.driver import Driver
from fedray.types import ArrayGroups, ImageShape, ServerState, Weights
from fedray.workers.worker import Worker
from helpers import federated, smooth_model, workers
from helpers.workers import FailingWorker

if TYPE_CHECKING:
    from fedray.backends.ray.pool import ActorPool

SEED, ROUNDS, CLIENTS, COHORT = 16, 4, 6, 3
DROPPED = (2, 2)
"""Round and client of the update that `FailingWorker` drops."""
LOCAL_EPOCHS, BATCH, LR, WEIGHT_DECAY = 2, 8, 0.1, 0.01
TOLERANCE = 1e-5
"""Largest difference between float32 weights after four rounds and those of an oracle in float64."""
SPEC: dict[str, Any] = {
    "seed": SEED,
    "data": {"train": "digits", "test": "digits", "train_limit": 150, "test_limit": 20},
    "partition": {"kind": "dirichlet", "alpha": 0.3, "clients": CLIENTS, "min_examples": 4},
    "proxy": {"name": "helpers.smooth_model:build"},
    "training": {
        "rounds": ROUNDS, "participation": COHORT / CLIENTS, "local_epochs": LOCAL_EPOCHS, "batch_size": BATCH,
        "failures": "drop",
    },
    "resources": {"backend": "serial"},
}  # fmt: skip
"""The spec of every run, without its strategy and optimizer."""
NORM = {"name": "helpers.smooth_model:build_norm"}
"""The section `proxy` of a model with batch normalisation, whose buffers are averaged too."""
SHAPE = ImageShape(channels=1, size=8, classes=10)


def experiment(strategy: dict[str, Any], momentum: float = 0.0, **sections: Any) -> Experiment:
    """Return the experiment of a strategy; `training={"rounds": 2}` changes one field of a section."""
    optimizer = {"lr": LR, "momentum": momentum, "weight_decay": WEIGHT_DECAY}
    spec = {**SPEC, "strategy": strategy, "training": {**SPEC["training"], "optimizer": optimizer}}
    for name, section in sections.items():
        spec[name] = section if name == "partition" else {**spec.get(name, {}), **section}
    return Experiment.model_validate(spec)


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    experiment: Experiment
    folder: Path

    @cached_property
    def clients(self) -> list[Client]:
        """All clients, in float64, as the oracles need them."""
        return clients_of(federated.load(self.experiment))

    @cached_property
    def state(self) -> ServerState:
        """The server's state after the last round."""
        return self._checkpoint[0]

    def client_state(self, client: int) -> ArrayGroups:
        """The state that a client keeps after the last round in which its update was not dropped."""
        return checkpoint.client_file(self.folder / "checkpoint", client, self.state_rounds[client]).read()

    @property
    def state_rounds(self) -> dict[int, int]:
        """The round of each client's state, by client."""
        return self._checkpoint[1]

    @cached_property
    def bits(self) -> dict[str, bytes]:
        """The bytes of each array of the server and of the clients."""
        groups = {"weights": self.state.weights, **self.state.extra, **self.state.moments}
        for client in self.state_rounds:
            groups |= {f"client {client} {name}": arrays for name, arrays in self.client_state(client).items()}
        return {f"{group}/{name}": a.tobytes() for group, arrays in groups.items() for name, a in arrays.items()}

    def assert_weights(self, expected: Sequence[Tensor], tolerance: float = TOLERANCE) -> None:
        """Compare the global model with an oracle's parameters and buffers, in the order of `state_dict`."""
        self.assert_close(self.state.weights, expected, tolerance)

    def assert_close(self, arrays: Weights, expected: Sequence[Tensor], tolerance: float = TOLERANCE) -> None:
        """Compare one array per parameter with an oracle's tensors, in the order of the model's parameters."""
        for array, tensor in zip(self.in_order(arrays), expected, strict=True):
            assert array.shape == tensor.shape
            np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=0, atol=tolerance)

    def assert_states(self, group: str, expected: Mapping[int, Sequence[Tensor]]) -> None:
        """Compare a group of each client's state with an oracle's tensors; `expected` has every client with state."""
        assert self.state_rounds.keys() == expected.keys()
        for client, tensors in expected.items():
            self.assert_close(dict(self.client_state(client)[group]), tensors)

    def in_order(self, arrays: Weights) -> list[np.ndarray]:
        """Return one array per parameter (or buffer) in the order of the model's."""
        ordered = [arrays[name] for name in self._names if name in arrays]
        assert len(ordered) == len(arrays)
        return ordered

    def distance(self, other: "Run") -> float:
        """Return the largest difference between the weights of two runs."""
        ours, others = self.state.weights, other.state.weights
        return max(float(np.abs(array - others[name]).max()) for name, array in ours.items())

    @cached_property
    def _names(self) -> list[str]:
        return list(build(self.experiment.proxy, SHAPE).state_dict())

    @cached_property
    def _checkpoint(self) -> tuple[ServerState, dict[int, int]]:
        loaded = checkpoint.load(self.folder / "checkpoint")
        assert loaded is not None
        return loaded


def run(experiment: Experiment, folder: Path, worker: type[Worker] = FailingWorker, stop_after: int = 0) -> Run:
    """Run to the end; with `stop_after`, first run that many rounds and stop, then resume."""
    backend = partial(SerialBackend, worker=worker)
    if stop_after:
        rounds = Driver(experiment, folder, backend).run()
        for _ in range(stop_after):
            next(rounds)
        rounds.close()
    return _finish(experiment, folder, backend)


def run_on_ray(experiment: Experiment, folder: Path, pool: "ActorPool | None" = None) -> Run:
    """Run to the end on Ray, which the test has started (fixture `ray_cluster`), with actors that may be warm."""
    from ray import cloudpickle

    from fedray.backends.ray.actors import RayBackend

    cloudpickle.register_pickle_by_value(workers)  # Ray's processes cannot import from tests/
    return _finish(experiment, folder, partial(RayBackend, pool=pool, worker=FailingWorker))


def _finish(experiment: Experiment, folder: Path, backend: MakeBackend) -> Run:
    for _ in Driver(experiment, folder, backend).run():
        pass
    return Run(experiment, folder)


# Inputs of the oracles, and local training.


def new_model(*, norm: bool = False) -> nn.Sequential:
    """The initial global model in float64, in training mode. Its last layer is the head."""
    with torch_rng(None, SEED, "proxy"):
        model = (smooth_model.build_norm if norm else smooth_model.build)(SHAPE)
    return model.double().train()


def cohort(clients: Sequence[Client], number: int) -> list[Client]:
    """The clients that are drawn in round 1, 2, ..., in ascending order."""
    chosen = numpy_rng(SEED, "cohort", number).choice(len(clients), COHORT, replace=False)
    return [clients[i] for i in sorted(chosen)]


def contributors(clients: Sequence[Client], number: int) -> list[Client]:
    """The clients of a round's cohort whose update is not dropped."""
    return [client for client in cohort(clients, number) if (number, client.number) != DROPPED]


def batches(client: Client, number: int) -> Iterator[Tensor]:
    """Positions, among a client's examples, of each batch of a round."""
    for epoch in range((number - 1) * LOCAL_EPOCHS, number * LOCAL_EPOCHS):
        yield from client.epoch(epoch, SEED, BATCH)


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean of -log p_y over a batch."""
    return -torch.log_softmax(model(images), 1)[range(len(labels)), labels].mean()


def sgd(
    model: nn.Module,
    client: Client,
    number: int,
    momentum: float,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = cross_entropy,
    shift: Callable[[list[Tensor]], list[Tensor]] | None = None,
) -> int:
    """Train a model in place for one client's round. Return the number of steps.

    g = ∇loss(w) + shift(w) + wd w;  v ← m v + g;  w ← w - lr v, with v = 0 at the start.
    """
    parameters, steps = list(model.parameters()), 0
    velocity = [torch.zeros_like(p) for p in parameters]
    for batch in batches(client, number):
        gradients = torch.autograd.grad(loss(model, client.images[batch], client.labels[batch]), parameters)
        with torch.no_grad():
            shifts = shift(parameters) if shift else [torch.zeros_like(p) for p in parameters]
            for w, v, g, s in zip(parameters, velocity, gradients, shifts, strict=True):
                v.copy_(momentum * v + g + s + WEIGHT_DECAY * w)
            for w, v in zip(parameters, velocity, strict=True):
                w.sub_(LR * v)
        steps += 1
    return steps


def values(model: nn.Module) -> list[Tensor]:
    """A copy of all parameters and buffers."""
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def parameters_of(model: nn.Module) -> list[Tensor]:
    """A copy of all trained parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def set_values(model: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Overwrite all parameters and buffers; counters are rounded."""
    with torch.no_grad():
        for target, tensor in zip(model.state_dict().values(), tensors, strict=True):
            target.copy_(tensor if target.is_floating_point() else tensor.round())


def mean(lists: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    """The weighted mean of lists of tensors, one per client."""
    total = sum(weights)
    return [sum(w / total * t for w, t in zip(weights, tensors, strict=True)) for tensors in zip(*lists, strict=True)]
