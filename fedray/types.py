"""Values that several packages exchange. All are frozen, and none needs torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = dict[str, npt.NDArray[Any]]
"""A model's parameters and buffers by their `state_dict` names, C-contiguous."""

ArrayGroups: TypeAlias = Mapping[str, Weights]
"""Named groups of named arrays that are sent or kept, such as {"control": {"conv.weight": ...}}."""

TargetArrays: TypeAlias = dict[str, npt.NDArray[np.float32]]
"""A client's distillation targets: `logits` [E, n, classes] or `features` [E, n, d], E epochs or 1 for all."""

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
    """One summand of an objective, `weight * loss`; `loss` is a name in `losses.terms.TERMS`, or that of a function."""

    loss: str
    weight: float = 1.0
    options: Mapping[str, float | str] = field(default_factory=dict)
    function: "Callable[..., Tensor] | None" = None
    """Returns the loss, a scalar tensor, of `LossInputs` and the options; None for a built-in loss."""
    output_kind: OutputKind | None = None
    """The kind of teacher output that the function reads, if any."""


def loss_column(model: str, term: str) -> str:
    """Return the column of a term's mean: `loss_kd` for the proxy, `loss_private_kd` for a private model.

    A term that is named after a class `package.module:Class` has the column `loss_Class`.
    """
    term = term.rpartition(":")[2]
    return f"loss_{term}" if model == "proxy" else f"loss_{model}_{term}"


@dataclass(frozen=True)
class ServerState:
    """The server's state after `round` rounds: what a checkpoint holds."""

    round: int
    weights: Weights
    extra: ArrayGroups = field(default_factory=dict)
    """The strategy's own groups, such as SCAFFOLD's control variate."""
    moments: ArrayGroups = field(default_factory=dict)
    """The server optimizer's groups, such as Adam's moments."""


@dataclass(frozen=True)
class ParameterInfo:
    """One array of a model: a trained parameter or a buffer."""

    name: str
    shape: tuple[int, ...]
    module_type: str  # class of the module that holds it, such as `BatchNorm2d`
    is_head: bool  # whether it belongs to the last linear layer
    is_buffer: bool  # not trained, such as BatchNorm's statistics


def trained_names(parameters: Sequence[ParameterInfo]) -> list[str]:
    """Return the names of the trained parameters, without the buffers."""
    return [info.name for info in parameters if not info.is_buffer]


@dataclass(frozen=True)
class Message:
    """Named arrays that a client sends to the server, and their weight in the mean over clients."""

    weight: int
    arrays: Weights


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
    forward_passes: int  # forward passes of one image
    flops: int  # floating-point operations of them all
    peak_bytes: int


@dataclass(frozen=True)
class ServerTraining:
    """The result of the server's own training in a round."""

    weights: Weights
    seconds: float


@dataclass(frozen=True)
class InitialState:
    """The state at the start of a run, as a worker reports it."""

    weights: Weights  # of the first proxy
    parameters: Sequence[ParameterInfo]  # of each array in `weights`, in their order
    gpu: str | None  # name of the GPU that the worker trains on, if any

    @property
    def trained_names(self) -> list[str]:
        """Names of the trained parameters; all other arrays are buffers."""
        return trained_names(self.parameters)


@dataclass(frozen=True)
class ClientUpdate:
    """Metrics and costs of one client's local training. Its messages travel separately."""

    client: int
    round: int
    examples: int
    metrics: Mapping[str, float]
    seconds: float
    node: str
    device: str
    steps: int = 0  # optimizer steps
    message_bytes: int = 0  # size of all messages of the client
    peak_bytes: int = 0  # peak memory of the process: the GPU's if it trains on one
    teacher_forward_passes: int = 0  # forward passes of online teachers
    teacher_flops: int = 0
    teacher_seconds: float = 0.0


@dataclass(frozen=True)
class ClientFailure:
    """The reason for a client's missing update in a round."""

    client: int
    round: int
    node: str
    reason: str
    traceback: str = ""
    late: bool = False
    is_repeatable: bool = False
    """Whether the client fails again where it is trained again: it raised an error, not for lack of memory."""

    def __str__(self) -> str:
        return f"client {self.client} failed in round {self.round} on node {self.node}: {self.reason}"


Outcome: TypeAlias = ClientUpdate | ClientFailure


@dataclass(frozen=True)
class Fault:
    """A fault that the run survived: a row of faults.csv."""

    fault: str  # `worker lost`, `client failed`, `client late`, `node lost`, `interrupted`, ...
    subject: str  # `client 3`, `evaluation of images 0 to 1000`, `run`, ...
    node: str
    response: str  # `retried`, `dropped`, `resumed from round 2`, ...
    reason: str = ""


@dataclass(frozen=True)
class Waiting:
    """The run waits for resources or nodes of the cluster."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Notice:
    """A message for the user on the data or the spec of a run."""

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
    """One finished round: its row of rounds.csv, and the number of rounds of the run."""

    round: int
    rounds: int
    row: Row
    warnings: tuple[str, ...] = ()
    """Sentences on the data of the run, with the first round after its start, and on its loss."""


Progress: TypeAlias = TeacherProgress | Waiting | Notice
OnProgress: TypeAlias = Callable[[Progress], None]
"""Called with the progress of work that the caller waits for."""


def ignore_progress(_: Progress) -> None:
    """The default of `on_progress`."""


Event: TypeAlias = Progress | RoundResult


@dataclass(frozen=True)
class ImageShape:
    """The shape of the data that a model is built for: square images of `size` pixels, and the number of classes."""

    channels: int
    size: int
    classes: int
