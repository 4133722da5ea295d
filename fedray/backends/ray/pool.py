"""A pool of actors that hold workers. It outlives an experiment: the next experiment reuses the processes."""

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from fedray.backends.ray.nodes import alive_nodes, this_node
from fedray.backends.ray.placement import Plan, plan_actors
from fedray.backends.ray.references import first_line
from fedray.backends.ray.shared_objects import ObjectStore
from fedray.config.experiment import Experiment
from fedray.errors import RunError, SpecError
from fedray.types import ArrayGroups, Row
from fedray.workers.requests import ClientMessages, R, Request

if TYPE_CHECKING:
    from fedray.data.dataset import Dataset
    from fedray.workers.worker import Worker

MAX_CALL_ATTEMPTS = 3
"""Attempts of a request that loses its actor, and of a slot that loses its actor before the worker has started."""


class WorkerActor:
    """A process that has imported torch, and holds the worker of one experiment after another."""

    def __init__(self, folder: str) -> None:
        """`folder` is the driver's working directory, to which paths of a spec are relative, on other nodes as well."""
        with suppress(OSError):
            os.chdir(folder)
        import fedray.workers.worker  # noqa: F401  takes seconds: start before the data arrives

    def start_worker(
        self,
        worker: "type[Worker] | None",
        experiment: Experiment,
        train: "Dataset",
        test: "Dataset",
        rest: Row,
    ) -> tuple[str, str]:
        """Create the worker that `handle` calls; return the id and the name of the node.

        The training and test sets are arguments of their own, because other trials may have stored them.
        """
        from fedray.data.federated import FederatedDataset
        from fedray.workers.worker import Worker

        self._worker = (worker or Worker)(experiment, FederatedDataset(train, test, **rest))
        return this_node(), platform.node()

    def handle(self, request: Request[R]) -> tuple[R, ClientMessages | None, ArrayGroups | None]:
        """Return the parts of the worker's result as objects of their own: only the first is sent to the driver."""
        result = self._worker.handle(request)
        return result.value, result.messages, result.client_state


@dataclass(eq=False)
class WorkerSlot:
    """A place in the pool: its present actor, and the node on which the actor's worker has started."""

    actor: Any  # handle of a `WorkerActor`; Ray has no type for `handle`, which returns three references
    starting: "ray.ObjectRef[tuple[str, str]]" = field(init=False)  # ready once the worker has started
    node: str = ""  # id of the node; empty until the worker has started
    node_name: str = "unknown"
    losses: int = 0  # actors that this slot has lost in a row


class ActorPool:
    """As many actors as the experiment's plan needs. A plan with another number or size replaces all of them."""

    def __init__(self, part: Mapping[str, float] | None = None, store: ObjectStore | None = None) -> None:
        """`part`: resources of the cluster that the pool may use, by default all."""
        self.slots: list[WorkerSlot] = []
        self.parallelism = 0
        self.store = store or ObjectStore()
        self._part = part
        self._plan: Plan | None = None
        self._planned_for: tuple[Experiment, int]

    def fit(self, experiment: Experiment, clients: int) -> None:
        """Start the actors that an experiment needs. Raises SpecError where the cluster is too small."""
        plan = plan_actors(experiment, clients, *self._resources())
        self._planned_for = experiment, clients
        if plan != self._plan or len(self.slots) != plan.actors:
            self.close()
            self._plan = plan
            self.slots = [self._new_slot() for _ in range(plan.actors)]
        self.parallelism = plan.at_once

    def rescale(self) -> list[WorkerSlot]:
        """Adapt the number of actors to nodes that have joined or left. Return the new slots."""
        if self._part or self._plan is None:
            return []
        try:
            plan = plan_actors(*self._planned_for, *self._resources())
        except SpecError:  # too small at the moment: continue with the actors that are left
            return []
        self.parallelism = plan.at_once
        unstarted = [slot for slot in self.slots if not slot.node]
        for slot in unstarted[: max(0, len(self.slots) - plan.actors)]:
            self._remove(slot)
        new = [self._new_slot() for _ in range(plan.actors - len(self.slots))]
        self.slots += new
        self._plan = replace(self._plan, actors=len(self.slots), at_once=plan.at_once)
        return new

    def replace(self, slot: WorkerSlot, error: Exception | None = None) -> WorkerSlot:
        """Replace the slot of an actor that was lost (`error`) or timed out (None).

        Raises RunError where the slot has lost its actor MAX_CALL_ATTEMPTS times before its worker had started.
        """
        if error is not None and not slot.node and slot.losses + 1 == MAX_CALL_ATTEMPTS:
            raise RunError(f"a worker was lost {MAX_CALL_ATTEMPTS} times while it started: {first_line(error)}")
        ray.kill(slot.actor)
        new = self._new_slot()
        new.losses = 0 if error is None else slot.losses + 1
        self.slots[self.slots.index(slot)] = new
        return new

    def close(self) -> None:
        """End all actors."""
        for slot in list(self.slots):
            self._remove(slot)
        self._plan = None

    def _resources(self) -> tuple[Mapping[str, float], Sequence[Mapping[str, float]]]:
        """The resources that the pool may use, in all and by node."""
        if self._part:
            return self._part, ()
        nodes = [node["Resources"] for node in alive_nodes()]
        return {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}, nodes

    def _new_slot(self) -> WorkerSlot:
        assert self._plan is not None, "the pool is fitted to an experiment first"
        reserved = {"num_cpus": self._plan.cpus_per_actor, "num_gpus": self._plan.gpus_per_actor}
        return WorkerSlot(ray.remote(WorkerActor).options(**reserved).remote(str(Path.cwd())))

    def _remove(self, slot: WorkerSlot) -> None:
        ray.kill(slot.actor)
        self.slots.remove(slot)
