"""Sums of weights that are made on the nodes where the weights are: one sum per node travels to the driver."""

from itertools import count
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedray.aggregation import ExactMean
from fedray.backends.base import Answer
from fedray.errors import LostError
from fedray.types import Weights


class Adder:
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


class Adders:
    """One on each node but the driver's, which adds itself."""

    def __init__(self) -> None:
        self.here = this_node()
        self._numbers = count()
        self._actors: dict[str, Any] = {}

    def total(self) -> "NodeTotal":
        return NodeTotal(self, next(self._numbers))

    def on(self, node: str) -> Any:
        """The adder of a node, started when it is first needed."""
        if node not in self._actors:
            self._actors[node] = ray.remote(Adder).options(num_cpus=0, scheduling_strategy=pinned(node)).remote()
        return self._actors[node]

    def forget(self, node: str) -> None:
        """It is lost."""
        ray.kill(self._actors.pop(node))

    def close(self) -> None:
        for node in list(self._actors):
            self.forget(node)


class NodeTotal:
    """One sum, spread over the nodes. It is exact, so that it does not matter how."""

    def __init__(self, adders: Adders, number: int) -> None:
        self._adders = adders
        self._number = number
        self._mean = ExactMean()
        self._sent: dict[str, list[Any]] = {}

    def add(self, answer: Answer, weight: int) -> None:
        if answer.where == self._adders.here:
            self._mean.fold(got(answer.weights), weight)
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
            got(self._sent[node])  # raises what went wrong as it was added
            found: ExactMean = got(part)
        except LostError:
            self._adders.forget(node)
            raise
        return found


def got(reference: Any) -> Any:
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


def pinned(node: str) -> Any:
    """For actors that only make sense on one node."""
    return NodeAffinitySchedulingStrategy(node, soft=False)
