"""The values that travel between driver, backends and clients. All frozen, none needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Weights: TypeAlias = dict[str, npt.NDArray[Any]]
"""A model's parameters and buffers by their `state_dict` names, C-contiguous."""

Indices: TypeAlias = npt.NDArray[np.int64]
Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Term:
    """One summand of an objective: `weight * loss`, the loss by its name in `objective.TERMS`."""

    loss: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerState:
    """What the server knows after `round` rounds."""

    round: int
    weights: Weights


@dataclass(frozen=True)
class ClientTask:
    """What one client does in one round, apart from the weights it starts from."""

    round: int
    client: int


@dataclass(frozen=True)
class ClientUpdate:
    """What one client sends back after local training."""

    client: int
    round: int
    weights: Weights
    examples: int
    metrics: Mapping[str, float]
    seconds: float
    node: str
    device: str


@dataclass(frozen=True)
class ClientFailure:
    """Why one client has no update in one round."""

    client: int
    round: int
    node: str
    reason: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"client {self.client} failed in round {self.round} on node {self.node}: {self.reason}"


@dataclass(frozen=True)
class RoundResult:
    """One finished round: the row of `rounds.csv`, and how far the run has come."""

    round: int
    rounds: int
    row: Row
