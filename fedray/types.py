"""The values that travel between driver, backends and clients. All frozen, none needs torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Weights: TypeAlias = dict[str, npt.NDArray[Any]]
"""A model's parameters and buffers by their `state_dict` names, C-contiguous."""

Indices: TypeAlias = npt.NDArray[np.int64]
Range: TypeAlias = tuple[int, int]
Row: TypeAlias = dict[str, Any]
OutputKind: TypeAlias = Literal["logits", "features", "head"]
"""Outputs of a teacher; `head` is a linear probe's fitted head, [classes, d + 1], with the bias in the last column."""

Precision: TypeAlias = Literal["float32", "bfloat16"]
MemoryFormat: TypeAlias = Literal["channels_last", "contiguous"]
"""NHWC or NCHW."""


@dataclass(frozen=True)
class LossTerm:
    """One summand of an objective: `weight * loss`, the loss by its name in `objective.TERMS`."""

    loss: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)


def loss_column(model: str, term: str) -> str:
    """How a term's mean is called: `loss_kd`, or `loss_private_kd` for a model beside the proxy."""
    return f"loss_{term}" if model == "proxy" else f"loss_{model}_{term}"


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
class TeacherQuery:
    """A query to a teacher, without the rows."""

    member: int  # index among the spec's teachers
    output_kind: OutputKind
    client: int | None = None  # the client that the teacher is adapted to, if any
    side: Literal["train", "test"] = "train"
    augmented: bool = False  # rows are `image * VIEWS + view`; otherwise indices of plain images


@dataclass(frozen=True)
class TeacherOutput:
    """Outputs that a worker computed for a query, and their cost."""

    outputs: npt.NDArray[np.float32]  # [rows, classes] or [rows, d]; of a head [classes, d + 1]
    produced_by: Row  # teacher, data, device and package versions, for the record
    passes: int  # forward passes of one image
    flops: int  # floating-point operations of them all
    peak_bytes: int


class WorkerResult(NamedTuple):
    """What a worker made for one call. Only the answer travels to the driver; the rest stays where it was made."""

    answer: Any
    weights: Any = None  # `Weights` to be added up, or an `ExactMean` of several
    kept: Weights | None = None  # what the client begins its next round with


@dataclass(frozen=True)
class InitialState:
    """What a run begins with, as a worker finds it."""

    weights: Weights  # the first proxy's
    parameters: Sequence[str]  # which of them are trained
    gpu: str | None  # what the worker trains on, where that is one


@dataclass(frozen=True)
class ClientUpdate:
    """What one client says of its local training. Its weights come apart."""

    client: int
    round: int
    examples: int
    metrics: Mapping[str, float]
    seconds: float
    node: str
    device: str
    peak_bytes: int = 0  # the most memory its process has used: the GPU's where it trains on one
    teacher_forward_passes: int = 0  # forward passes that an online teacher made
    teacher_flops: int = 0
    teacher_seconds: float = 0.0


@dataclass(frozen=True)
class ClientFailure:
    """Why one client has no update in one round."""

    client: int
    round: int
    node: str
    reason: str
    traceback: str = ""
    late: bool = False

    def __str__(self) -> str:
        return f"client {self.client} failed in round {self.round} on node {self.node}: {self.reason}"


@dataclass(frozen=True)
class Fault:
    """Something went wrong, and the run went on."""

    fault: str  # what happened: `worker lost`, `client failed`, `client late`, `node lost`, `interrupted`, ...
    subject: str  # to what: `client 3`, `evaluate (0, 1000)`
    node: str
    response: str  # what was done: `made again`, `dropped`, `round run again`, ...
    reason: str = ""


@dataclass(frozen=True)
class Waiting:
    """The run stands still until the cluster has room or somebody comes back."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class TeacherProgress:
    """Progress of the teacher outputs that a round waits for."""

    done: int
    total: int
    noun: str = "outputs"
    waiting: bool = False  # for another run that computes the same outputs

    def __str__(self) -> str:
        """`teacher: 300 of 10,000 outputs`."""
        if self.waiting:
            return "waiting for another run that computes the same teacher outputs"
        return f"teacher: {self.done:,} of {self.total:,} {self.noun}"


@dataclass(frozen=True)
class RoundResult:
    """One finished round: the row of `rounds.csv`, and how far the run has come."""

    round: int
    rounds: int
    row: Row


Progress: TypeAlias = TeacherProgress | Waiting
OnProgress: TypeAlias = Callable[[Progress], None]
"""Called with the progress of work that the caller waits for."""
Event: TypeAlias = Progress | RoundResult


@dataclass(frozen=True)
class ImageShape:
    """What a model must know of the data: square images of `size`, `channels` and `classes`."""

    channels: int
    size: int
    classes: int
