"""Sums of weights that are made on the nodes where the weights are: one sum per node travels to the driver."""

from itertools import count
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedray.aggregation.exact_mean import ExactMean
from fedray.backends.base import CallResult
from fedray.errors import LostError
from fedray.types import Weights


class NodeReducer:
    """An actor that adds up what the workers of its node have made."""

    def __init__(self) -> None:
        self._sum = -1
        self._mean = ExactMean()

    def add(self, number: int, part: Weights | ExactMean, weight: int) -> None:
        """Fold in; a new number begins a new sum."""
        if number != self._sum:
            self._sum, self._mean = number, ExactMean()
        self._mean.fold(part, weight)

    def take(self) -> ExactMean:
        """The sum."""
        return self._mean


class NodeReducers:
    """One on each node but the driver's, which adds itself."""

    def __init__(self) -> None:
        self.here = this_node()
        self._numbers = count()
        self._actors: dict[str, Any] = {}

    def total(self) -> "DistributedSum":
        return DistributedSum(self, next(self._numbers))

    def on(self, node: str) -> Any:
        """The adder of a node, started when it is first needed."""
        if node not in self._actors:
            self._actors[node] = ray.remote(NodeReducer).options(num_cpus=0, scheduling_strategy=on_node(node)).remote()
        return self._actors[node]

    def forget(self, node: str) -> None:
        """It is lost."""
        ray.kill(self._actors.pop(node))

    def close(self) -> None:
        for node in list(self._actors):
            self.forget(node)


class DistributedSum:
    """One sum, spread over the nodes. It is exact, so that it does not matter how."""

    def __init__(self, adders: NodeReducers, number: int) -> None:
        self._adders = adders
        self._number = number
        self._mean = ExactMean()
        self._sent: dict[str, list[Any]] = {}

    def add(self, answer: CallResult, weight: int) -> None:
        if answer.where == self._adders.here:
            self._mean.fold(ray_get(answer.weights), weight)
            return
        adder = self._adders.on(answer.where)
        self._sent.setdefault(answer.where, []).append(adder.add.remote(self._number, answer.weights, weight))

    def mean(self) -> ExactMean:
        parts = {node: self._adders.on(node).take.remote() for node in self._sent}
        for node, part in parts.items():
            self._mean.merge(self._part(node, part))
        return self._mean

    def _part(self, node: str, part: Any) -> ExactMean:
        try:
            ray_get(self._sent[node])  # raises what went wrong as it was added
            found: ExactMean = ray_get(part)
        except LostError:
            self._adders.forget(node)
            raise
        return found


def ray_get(reference: Any) -> Any:
    """The value of a reference, or of several. Raises LostError where it has gone with its node or its process."""
    try:
        return ray.get(reference)
    except (ObjectLostError, RayActorError) as error:
        raise LostError(str(error).partition("\n")[0]) from error
    except RayTaskError as error:
        if isinstance(error.cause, ObjectLostError):
            raise LostError(str(error.cause).partition("\n")[0]) from error
        raise


def this_node() -> str:
    """The id of the node that this process runs on."""
    node: str = ray.get_runtime_context().get_node_id()
    return node


def on_node(node: str) -> Any:
    """For actors that only make sense on one node."""
    return NodeAffinitySchedulingStrategy(node, soft=False)
