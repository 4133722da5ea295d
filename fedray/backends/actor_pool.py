"""Actors that hold workers. They outlive an experiment: the next one of a space finds them warm."""

from typing import Any

import ray

from fedray.backends.plan import Plan, plan_actors
from fedray.config import Experiment


class WorkerActor:
    """A process that has imported what a worker needs, and holds one after another."""

    def __init__(self) -> None:
        import fedray.worker  # noqa: F401  torch takes seconds: start on it before the data is there

    def begin(self, worker: type[Any], *arguments: Any) -> None:
        """Make the worker that `call` speaks to."""
        self._worker = worker(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        """What the worker's method returns: the answer, and what its client keeps."""
        return getattr(self._worker, method)(*arguments)


class ActorPool:
    """As many actors as the last plan wanted. A plan of another shape replaces them."""

    def __init__(self) -> None:
        self.actors: list[Any] = []
        self.at_once = 0
        self._plan: Plan | None = None

    def fit(self, experiment: Experiment, clients: int) -> None:
        """Have the actors that the experiment wants. Raises SpecError where the cluster is too small."""
        plan = plan_actors(experiment, clients, ray.cluster_resources())  # type: ignore[no-untyped-call]
        if plan != self._plan:
            self.close()
            self._plan, self.at_once = plan, plan.at_once
            self.actors = [self.start() for _ in range(plan.actors)]

    def start(self) -> Any:
        """One more actor of the plan's kind."""
        assert self._plan is not None, "fit comes before start"
        actor: Any = ray.remote(WorkerActor)
        return actor.options(num_cpus=self._plan.cpus_per_actor, num_gpus=self._plan.gpus_per_actor).remote()

    def close(self) -> None:
        """Let all actors go."""
        for actor in self.actors:
            ray.kill(actor)
        self._plan, self.actors = None, []
