"""Requests from the server to the workers: one frozen dataclass per call, with the type of its result.

Importing this module does not import torch, because the driver runs without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fedray.aggregation.messages import Messages, MessageSums
from fedray.models.weights import GroupsFile
from fedray.training.evaluation import EvalCounts
from fedray.types import (
    ArrayGroups,
    ImageShape,
    Indices,
    InitialState,
    Outcome,
    Range,
    ServerTraining,
    TargetArrays,
    TeacherOutput,
    TeacherQuery,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

ClientMessages: TypeAlias = Messages | MessageSums
"""The messages of one client, or the sums of several clients' messages."""


class Shared(Protocol[T_co]):
    """A value that many requests refer to and that each node receives once."""

    def get(self) -> T_co:
        """Return the value. Raises LostError where it was lost with its node."""


@dataclass(frozen=True)
class LocalValue(Generic[T]):
    """A `Shared` value of this process."""

    value: T

    def get(self) -> T:
        """Return the value."""
        return self.value


@dataclass(frozen=True)
class Request(Generic[R_co]):
    """A call of a worker whose result is an `R_co`. It can be retried: its result depends on nothing else."""

    @property
    def subject(self) -> str:
        """Name of the request in messages and in faults.csv."""
        return type(self).__name__

    @property
    def preferred_slot(self) -> int:
        """Number of the worker slot that gets the request if that slot is idle, modulo the number of slots."""
        return 0

    def with_files_read(self) -> "Request[R_co]":
        """Return the request with the contents of the driver's files, which other nodes cannot read."""
        return self


@dataclass(frozen=True)
class WorkerResult(Generic[R_co]):
    """Result of a request. Only `value` travels to the driver; messages stay on the worker's node."""

    value: R_co
    messages: ClientMessages | None = None
    client_state: ArrayGroups | None = None


@dataclass(frozen=True)
class Initialize(Request[InitialState]):
    """Build the first proxy."""

    shape: ImageShape | None = None  # of the proxy's inputs; None for the shape of the images


@dataclass(frozen=True)
class ClientTask:
    """All that one client needs for a round, apart from the broadcast."""

    round: int
    client: int
    targets: Shared[TargetArrays] | None = None
    """Cached teacher outputs, for the loss or as inputs of the proxy; None if none are needed or they are online."""
    state: ArrayGroups | GroupsFile | None = None  # the client's state after its last round, if any

    def read_state(self) -> ArrayGroups:
        """Return the client's state; empty before its first round. Raises RunError where its file cannot be read."""
        return self.state.read() if isinstance(self.state, GroupsFile) else self.state or {}


@dataclass(frozen=True)
class TrainClients(Request[Sequence[Outcome]]):
    """Train clients, starting from the global weights. The result is an update or a failure of each client."""

    tasks: tuple[ClientTask, ...]
    broadcast: Shared[ArrayGroups]  # the global `weights`, and the strategy's own groups

    @property
    def subject(self) -> str:
        """`client 3`, or `clients 3, 7 and 9`."""
        *others, last = (str(task.client) for task in self.tasks)
        return f"clients {', '.join(others)} and {last}" if others else f"client {last}"

    @property
    def preferred_slot(self) -> int:
        """The first client's number: with one slot per client, a client always trains in the same process."""
        return self.tasks[0].client

    def with_files_read(self) -> "TrainClients":
        """Return the request with the clients' states read. Raises RunError where a file cannot be read."""
        return replace(self, tasks=tuple(replace(task, state=task.read_state()) for task in self.tasks))


@dataclass(frozen=True)
class TryBatch(Request[str]):
    """Train a copy of the global model on a client's first `examples`; the result is the reason of a failure, or ""."""

    client: int
    examples: int
    broadcast: Shared[ArrayGroups]
    shape: ImageShape | None = None  # of the proxy's inputs; None for the shape of the images

    @property
    def subject(self) -> str:
        """`first batch of client 3`."""
        return f"first batch of client {self.client}"


@dataclass(frozen=True)
class TrainServer(Request[ServerTraining]):
    """Train the server's model on the public images, in the strategy's server phase."""

    round: int
    inputs: Shared[ArrayGroups]  # the model's `weights`, and the strategy's `public_targets`

    @property
    def subject(self) -> str:
        """`server's training in round 3`."""
        return f"server's training in round {self.round}"


@dataclass(frozen=True)
class Evaluate(Request[EvalCounts]):
    """Count the proxy's predictions for a range of the test images."""

    images: Range
    broadcast: Shared[ArrayGroups]  # its group `weights` is evaluated
    features: Shared[TargetArrays] | None = None  # the inputs of a proxy that reads them, [1, N, d] for all test images

    @property
    def subject(self) -> str:
        """`evaluation of images 0 to 1000`."""
        return "evaluation of images {} to {}".format(*self.images)


@dataclass(frozen=True)
class EvaluateClient(Request[EvalCounts]):
    """Count the predictions of a client's own proxy for all test images: global arrays, and those of its state."""

    task: ClientTask
    broadcast: Shared[ArrayGroups]
    features: Shared[TargetArrays] | None = None  # as those of `Evaluate`

    @property
    def subject(self) -> str:
        """`evaluation of client 3`."""
        return f"evaluation of client {self.task.client}"

    @property
    def preferred_slot(self) -> int:
        """The client's number."""
        return self.task.client

    def with_files_read(self) -> "EvaluateClient":
        """Return the request with the client's state read. Raises RunError where the file cannot be read."""
        return replace(self, task=replace(self.task, state=self.task.read_state()))


@dataclass(frozen=True)
class QueryTeacher(Request[TeacherOutput]):
    """Compute a teacher's outputs for some rows, or fit the head of a linear probe to a client's `features`."""

    query: TeacherQuery
    rows: Indices
    features: npt.NDArray[np.floating] | None = None

    @property
    def subject(self) -> str:
        """`query of teacher 0`."""
        return f"query of teacher {self.query.member}"

    @property
    def preferred_slot(self) -> int:
        """The number of the client that the teacher is adapted to, if any."""
        return self.query.client or 0


@dataclass(frozen=True)
class CountFlops(Request[int]):
    """Count the floating-point operations of one example's pass through a model: forward, and backward if trained."""

    model: str  # "proxy", "private" or "frozen", which is not trained
    shape: ImageShape | None = None  # of its inputs; None for the shape of the images
