"""Actors that hold workers. They outlive an experiment: the next one of a space finds them warm."""

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from fedray.backends.ray.node_sums import this_node
from fedray.backends.ray.placement import Plan, plan_actors
from fedray.backends.ray.shared_objects import ObjectStore
from fedray.config.experiment import Experiment
from fedray.errors import RunError, SpecError
from fedray.types import WorkerResult

MAX_CALL_ATTEMPTS = 3
"""How often a call may lose its actor, and a place its actor in a row, before it is given up.

Calls are pure: they can be made again."""


class WorkerActor:
    """A process that has imported what a worker needs, and holds one after another."""

    def __init__(self, folder: str) -> None:
        """`folder` is where the driver runs: a spec's paths are relative to it, on other nodes as well."""
        with suppress(OSError):
            os.chdir(folder)
        import fedray.workers.worker  # noqa: F401  torch takes seconds: start on it before the data is there

    def begin(
        self, worker: type[Any] | None, experiment: Experiment, train: Any, test: Any, rest: dict[str, Any]
    ) -> tuple[str, str]:
        """Make the worker that `call` speaks to; returns the node's id and name.

        The sets come apart: other trials may have put them already.
        """
        from fedray.data.federated import FederatedDataset
        from fedray.workers.worker import Worker

        self._worker = (worker or Worker)(experiment, FederatedDataset(train, test, **rest))
        return this_node(), platform.node()

    def call(self, method: str, *arguments: Any) -> WorkerResult:
        """What the worker's method makes."""
        made: WorkerResult = getattr(self._worker, method)(*arguments)
        return made


@dataclass(eq=False)
class WorkerSlot:
    """A place in the pool: an actor, and which node it has come up on."""

    actor: Any
    begun: Any = None  # the reference that is there once its worker is
    node: str = ""  # the node's id; empty until then
    name: str = "unknown"
    losses: int = 0  # in a row, in this place


class ActorPool:
    """As many actors as the last plan wanted. A plan of another shape replaces them."""

    def __init__(self, part: Mapping[str, float] | None = None, store: ObjectStore | None = None) -> None:
        """`part` is what it may use of the cluster, by default all."""
        self.posts: list[WorkerSlot] = []
        self.at_once = 0
        self.store = store or ObjectStore()
        self._part = part
        self._plan: Plan | None = None
        self._for: tuple[Experiment, int]

    def fit(self, experiment: Experiment, clients: int) -> None:
        """Have the actors that the experiment wants. Raises SpecError where the cluster is too small."""
        plan = plan_actors(experiment, clients, *self._room())
        self._for = experiment, clients
        if plan != self._plan or len(self.posts) != plan.actors:
            self.close()
            self._plan = plan
            self.posts = [self._start() for _ in range(plan.actors)]
        self.at_once = plan.at_once

    def follow(self) -> list[WorkerSlot]:
        """Go along with nodes that have come or gone. Returns posts that are new."""
        if self._part or self._plan is None:
            return []
        with suppress(SpecError):  # too small for now: who is there goes on
            plan = plan_actors(*self._for, *self._room())
            self.at_once = plan.at_once
            for post in [post for post in self.posts if not post.node][: max(0, len(self.posts) - plan.actors)]:
                self._drop(post)
            new = [self._start() for _ in range(plan.actors - len(self.posts))]
            self.posts += new
            self._plan = replace(self._plan, actors=len(self.posts), at_once=plan.at_once)
            return new
        return []

    def replace(self, post: WorkerSlot, error: Exception | None = None) -> WorkerSlot:
        """Another actor in the place of one that is lost or late. Raises RunError where none ever comes up."""
        if error is not None and not post.node and post.losses + 1 == MAX_CALL_ATTEMPTS:
            raise RunError(
                f"a worker was lost {MAX_CALL_ATTEMPTS} times as it started, at last so: {first_line(error)}"
            )
        ray.kill(post.actor)
        new = self._start()
        new.losses = 0 if error is None else post.losses + 1
        self.posts[self.posts.index(post)] = new
        return new

    def close(self) -> None:
        """Let all actors go."""
        for post in list(self.posts):
            self._drop(post)
        self._plan = None

    def _room(self) -> tuple[Mapping[str, float], Sequence[Mapping[str, float]]]:
        """What there is in all, and on each node."""
        if self._part:
            return self._part, ()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        return {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}, nodes

    def _start(self) -> WorkerSlot:
        assert self._plan is not None, "fit comes before start"
        actor: Any = ray.remote(WorkerActor)
        share = {"num_cpus": self._plan.cpus_per_actor, "num_gpus": self._plan.gpus_per_actor}
        return WorkerSlot(actor.options(**share).remote(str(Path.cwd())))

    def _drop(self, post: WorkerSlot) -> None:
        ray.kill(post.actor)
        self.posts.remove(post)


def node_names() -> dict[str, str]:
    """Of the nodes that are there: their ids, and what they are called."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: f"{node['NodeManagerHostname']}, {node['NodeManagerAddress']}"
        for node in nodes
        if node["Alive"]
    }


def first_line(error: BaseException) -> str:
    """Ray says more than one wants to read in a sentence."""
    return str(error).strip().partition("\n")[0]


def cluster_resources() -> Mapping[str, float]:
    """`CPU`, `GPU` and so on: how many all nodes have together."""
    resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources
