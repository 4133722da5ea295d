"""The result of probing a cluster: its nodes, their software, and the folders that they share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fedray.doctor.requirements import Requirements

EPSILON = 1e-9
"""Tolerance when resources are divided."""
SOURCE = "fedray's source"


@dataclass(frozen=True)
class Software:
    """The software of a process."""

    python: str
    packages: Mapping[str, str]
    """Versions by name; missing packages are left out."""
    source: str
    """A hash of fedray's code; empty if fedray is missing."""
    executable: str = ""

    def versions(self) -> dict[str, str]:
        """Return versions by name, fedray's first, then those of its source, Python and the other packages."""
        return {"fedray": self.packages.get("fedray", ""), SOURCE: self.source, "python": self.python} | {
            name: value for name, value in self.packages.items() if name != "fedray"
        }


class Bytes(NamedTuple):
    """The size of a memory or disk, in bytes."""

    total: int
    free: int


class Gpu(NamedTuple):
    """A GPU that torch can use, and bytes of its memory."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Access:
    """Whether a node can read and write a folder of this process."""

    shared: bool
    error: str = ""
    free_bytes: int | None = None
    """None for a URI."""


@dataclass(frozen=True)
class SharedPath:
    """A folder or URI that several nodes may share."""

    path: str
    error: str = ""
    """Why this process cannot write to it; empty if it can."""
    access: Mapping[str, Access] = field(default_factory=dict)
    """Access by node name; unresponsive nodes are left out."""

    @property
    def is_uri(self) -> bool:
        """Whether the path is a URI such as s3://bucket/path."""
        return "://" in self.path


@dataclass(frozen=True)
class NodeReport:
    """The state of a node, determined by a process of that node."""

    software: Software
    disk: Bytes
    """The disk to which Ray spills objects."""
    temp_folder: str
    """The folder to which Ray spills objects."""
    working_folder: str
    """The working folder of Ray's processes."""
    memory: Bytes | None = None
    clock_offset_s: float = 0.0
    """Seconds by which the node's clock is ahead of this process's (a lower bound); negative if behind."""
    file_sizes: Mapping[str, int | None] = field(default_factory=dict)
    """Approximate bytes by the file's name in the spec; None for a missing file."""
    gpus: Sequence[Gpu] | None = None
    """GPUs that torch detects; None if it was not queried."""
    has_bfloat16: bool | None = None
    """Whether the processor has bfloat16 instructions; None if unknown."""


@dataclass(frozen=True)
class Node:
    """A node that is, or was, part of the Ray cluster."""

    name: str
    address: str
    is_local: bool = False
    """Whether this process runs on it."""
    cores: float = 0
    free_cores: float = 0
    gpus: float = 0
    free_gpus: float = 0
    object_store_bytes: float = 0
    exit_reason: str = ""
    """Why it has left the cluster; empty if it has not."""
    exit_was_intended: bool = False
    probe_error: str = ""
    """Why it has no report."""
    report: NodeReport | None = None

    def count_actors(self, cpus: float, gpus: float, *, free_only: bool = False) -> int:
        """Return how many actors with these cores and GPUs the node can hold, in total or in its free resources.

        A share of a GPU is on one GPU; an actor with more than one GPU takes whole GPUs.
        """
        if self.exit_reason:
            return 0
        by_cores = int((self.free_cores if free_only else self.cores) / cpus + EPSILON)
        return min(by_cores, _actors_by_gpus(self.free_gpus if free_only else self.gpus, gpus)) if gpus else by_cores


@dataclass(frozen=True)
class ClusterReport:
    """The input of all checks."""

    nodes: Sequence[Node]
    software: Software
    """The software of this process."""
    results: SharedPath | None = None
    teacher_cache: SharedPath | None = None
    requirements: Requirements | None = None
    """The requirements of the spec; None without a spec."""
    actor_error: str = ""
    """Why no actor starts on this node; empty if one does."""
    has_results_option: bool = False
    """Whether the user gave --results."""

    @property
    def alive(self) -> list[Node]:
        """The nodes that have not left."""
        return [node for node in self.nodes if not node.exit_reason]

    @property
    def total(self) -> Mapping[str, float]:
        """Resources of the cluster under Ray's names, CPU and GPU."""
        return {"CPU": sum(n.cores for n in self.alive), "GPU": sum(n.gpus for n in self.alive)}


def _actors_by_gpus(available: float, per_actor: float) -> int:
    if per_actor > 1:
        return math.floor(available / per_actor + EPSILON)
    per_gpu = int(1 / per_actor + EPSILON)
    return int(available + EPSILON) * per_gpu + int(available % 1 / per_actor + EPSILON)
