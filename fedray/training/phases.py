"""The server's own training in a round, as a strategy describes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedray.training.schedules import AnySchedule, ConstantSchedule, CosineSchedule
from fedray.training.sections import AnyOptimizer, Training
from fedray.types import LossTerm


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
