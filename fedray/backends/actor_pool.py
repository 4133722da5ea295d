"""Actors that hold workers. They outlive an experiment: the next one of a space finds them warm."""

from collections.abc import Mapping
from typing import Any

import ray

from fedray.backends.commons import Store
from fedray.backends.plan import Plan, plan_actors
from fedray.config import Experiment


class WorkerActor:
    """A process that has imported what a worker needs, and holds one after another."""

    def __init__(self) -> None:
        import fedray.worker  # noqa: F401  torch takes seconds: start on it before the data is there

    def begin(self, worker: type[Any], experiment: Experiment, train: Any, test: Any, rest: dict[str, Any]) -> None:
        """Make the worker that `call` speaks to. The sets come apart: other trials may have put them already."""
        from fedray.data.federation import Federation

        self._worker = worker(experiment, Federation(train, test, **rest))

    def call(self, method: str, *arguments: Any) -> Any:
        """What the worker's method returns: the answer, and what its client keeps."""
        return getattr(self._worker, method)(*arguments)


class ActorPool:
    """As many actors as the last plan wanted. A plan of another shape replaces them."""

    def __init__(self, part: Mapping[str, float] | None = None, store: Store | None = None) -> None:
        """`part` is what it may use of the cluster, by default all."""
        self.actors: list[Any] = []
        self.at_once = 0
        self.store = store or Store()
        self._part = part
        self._plan: Plan | None = None

    def fit(self, experiment: Experiment, clients: int) -> None:
        """Have the actors that the experiment wants. Raises SpecError where the cluster is too small."""
        plan = plan_actors(experiment, clients, self._part or cluster_resources())
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


def cluster_resources() -> Mapping[str, float]:
    """`CPU`, `GPU` and so on: how many all nodes have together."""
    resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources
