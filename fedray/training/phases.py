"""The parts of the training in a round, as a strategy describes them: a client's phases, and the server's own one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from fedray.training.schedules import AnySchedule, ConstantSchedule, CosineSchedule
from fedray.training.sections import AnyOptimizer, Training
from fedray.types import LossTerm, ParameterInfo

PhaseData: TypeAlias = Literal["own", "public"]
"""The client's examples, or the public images."""


def every_parameter(_: ParameterInfo) -> bool:
    """Return True."""
    return True


@dataclass(frozen=True)
class Phase:
    """A part of a client's training in a round. Each phase has moments of the optimizer of its own."""

    objectives: Mapping[str, Sequence[LossTerm]] | None = None
    """Loss terms by model; None for the strategy's objectives."""
    data: PhaseData = "own"
    """`public`: the public images, not augmented, with the targets `ClientStart.public_targets`."""
    epochs: int | None = None
    """Epochs of the phase; None for the epochs or steps of `training`."""
    trainable: Callable[[ParameterInfo], bool] = every_parameter
    """Whether a parameter of the proxy is trained. Others stay as they are, without weight decay; buffers change."""

    def training(self, clients: Training) -> Training:
        """Return the section of this phase."""
        if self.epochs is None:
            return clients
        return clients.model_copy(update={"local_epochs": self.epochs, "local_steps": None})


@dataclass(frozen=True)
class ServerPhase:
    """Training of the round's target on the public images, not augmented, before the server optimizer steps to it."""

    objectives: Sequence[LossTerm]
    """Loss terms of the model; they read the strategy's `public_targets` as `LossInputs.targets`."""
    steps: int
    batch_size: int
    optimizer: AnyOptimizer
    schedule: AnySchedule = field(default_factory=CosineSchedule)
    """Schedule of the learning rate of each step: its rounds are the steps of a phase."""

    def training(self, clients: Training) -> Training:
        """Return the section of this phase; memory layout and precision are those of the clients' training."""
        own = {"batch_size": self.batch_size, "optimizer": self.optimizer, "schedule": ConstantSchedule()}
        return clients.model_copy(update={"local_epochs": None, "local_steps": self.steps, "clip_norm": None, **own})
