"""What is known of a cluster, of what is wanted of it, and how that fits. None of it asks anybody."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedray.config.experiment import Experiment

TINY = 1e-9
SOURCE = "fedray's source"


@dataclass(frozen=True)
class Software:
    """What a process runs on."""

    python: str
    packages: Mapping[str, str]
    source: str
    """A hash of fedray's own code; empty where there is none."""
    executable: str = ""

    def versions(self) -> dict[str, str]:
        """By name, in the order in which a difference matters."""
        return {"fedray": self.packages.get("fedray", ""), SOURCE: self.source, "python": self.python} | {
            name: value for name, value in self.packages.items() if name != "fedray"
        }


@dataclass(frozen=True)
class Gpu:
    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Reach:
    """What one node sees of a place that this process has written to."""

    shared: bool
    problem: str = ""
    free: int | None = None


@dataclass(frozen=True)
class Place:
    """A folder, or a URI, that several nodes may have in common."""

    path: str
    problem: str = ""
    """Why this process cannot use it."""
    reached: Mapping[str, Reach] = field(default_factory=dict)
    """By the names of the nodes that answered."""

    @property
    def is_uri(self) -> bool:
        return "://" in self.path


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself."""

    software: Software
    disk: tuple[int, int]
    """Bytes in all and free, where Ray spills to."""
    temp: str
    folder: str
    """The working folder of its processes."""
    memory: tuple[int, int] | None = None
    clock: float = 0.0
    """Seconds by which its clock is surely ahead of this process's, or behind."""
    files: Mapping[str, int | None] = field(default_factory=dict)
    """By what the spec calls them: roughly what is there, None if nothing."""
    gpus: Sequence[Gpu] | None = None
    """Those that torch sees; None where nobody has looked."""
    bfloat16: bool | None = None
    """Whether its processor has instructions for it; None where it does not say."""


@dataclass(frozen=True)
class Node:
    """A node as Ray knows it, and what it said."""

    name: str
    address: str
    here: bool = False
    """Whether this process runs on it."""
    cores: float = 0
    free_cores: float = 0
    gpus: float = 0
    free_gpus: float = 0
    store: float = 0
    left: str = ""
    """Why it is no longer in the cluster."""
    meant_to_leave: bool = False
    silence: str = ""
    """Why it has said nothing of itself."""
    answer: NodeReport | None = None

    def fits(self, cpus: float, gpus: float, *, now: bool = False) -> int:
        """How many actors of so many cores and GPUs find room on it, in all or `now`.

        A part of a GPU is a part of one GPU, and more than one are whole ones.
        """
        if self.left:
            return 0
        by_cores = int((self.free_cores if now else self.cores) / cpus + TINY)
        if not gpus:
            return by_cores
        has = self.free_gpus if now else self.gpus
        by_gpus = int(has + TINY) * int(1 / gpus + TINY) + int(has % 1 / gpus + TINY) if gpus <= 1 else has / gpus
        return min(by_cores, math.floor(by_gpus + TINY))


@dataclass(frozen=True)
class File:
    """What a field of the spec names."""

    field: str
    text: str
    everywhere: bool
    """Whether every node reads it, not this one alone."""


@dataclass(frozen=True)
class Requirements:
    """What a spec asks for."""

    study: bool
    """Whether it has axes, and so may be swept: trials then run on any node."""
    targets: bool
    """Whether teachers' answers are kept in the bank."""
    sizes: Mapping[Experiment, int]
    """How many clients each experiment has."""
    most: int
    """Trials at once, at most."""
    files: Sequence[File] = ()

    @property
    def shares(self) -> set[tuple[float, float]]:
        """The cores and GPUs that a client may ask for."""
        return {(spec.resources.cpus_per_client, spec.resources.gpus_per_client) for spec in self.sizes}


@dataclass(frozen=True)
class ClusterReport:
    nodes: Sequence[Node]
    software: Software
    """Of this process."""
    results: Place | None = None
    teacher_cache: Place | None = None
    wanted: Requirements | None = None
    no_actor: str = ""
    """Why no actor comes up on this node, where the nodes' tasks run."""
    results_meant: bool = False
    """Whether somebody said where results go, rather than leaving it."""

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if not node.left]

    @property
    def total(self) -> Mapping[str, float]:
        """As Ray has it for the cluster."""
        return {"CPU": sum(n.cores for n in self.alive), "GPU": sum(n.gpus for n in self.alive)}
