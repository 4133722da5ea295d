"""Learning-rate schedules: sections that scale the learning rate of a round.

The rate is constant within a round: a client's steps depend on its number of examples, so a rate per step would give
the clients of one round different rates.
"""

import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from fedray.section import Section


class Schedule(Section):
    """The factor of the learning rate in each round: a linear warm-up, then the decay of a subclass."""

    name: str
    warm_up: int = Field(0, ge=0)
    """Rounds W before the full learning rate: round r <= W has the factor r / (W + 1). The decay starts after them."""

    def factor(self, number: int, rounds: int) -> float:
        """Return the factor of the learning rate in a round, numbered from 1, of a run of `rounds` rounds."""
        if number <= self.warm_up:
            return number / (self.warm_up + 1)
        return self.decay(number - self.warm_up - 1, rounds - self.warm_up)

    @abstractmethod
    def decay(self, elapsed: int, rounds: int) -> float:
        """Return the factor after `elapsed` of the `rounds` rounds that follow the warm-up."""


class ConstantSchedule(Schedule):
    """The same learning rate in all rounds after the warm-up."""

    name: Literal["constant"] = "constant"

    def decay(self, elapsed: int, rounds: int) -> float:  # noqa: ARG002  the parameters of every schedule
        """Return 1."""
        return 1.0


class StepSchedule(Schedule):
    """The learning rate is multiplied by `gamma` after every `every` rounds."""

    name: Literal["step"] = "step"
    every: int = Field(ge=1)
    """Rounds from one decay to the next."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of each decay."""

    def decay(self, elapsed: int, rounds: int) -> float:  # noqa: ARG002  the parameters of every schedule
        """Return gamma^(elapsed // every)."""
        return self.gamma ** (elapsed // self.every)


class CosineSchedule(Schedule):
    """The learning rate falls along half a cosine to `training.rounds` (Loshchilov and Hutter, arXiv 1608.03983)."""

    name: Literal["cosine"] = "cosine"
    final: float = Field(0.0, ge=0, le=1)
    """Factor that the cosine would reach in the round after the last one."""

    def decay(self, elapsed: int, rounds: int) -> float:
        """Return final + (1 - final) · (1 + cos(π · elapsed / rounds)) / 2."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * elapsed / rounds)) / 2


AnySchedule = Annotated[ConstantSchedule | StepSchedule | CosineSchedule, Field(discriminator="name")]
