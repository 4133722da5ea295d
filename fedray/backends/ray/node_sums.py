"""Sums of messages on the nodes where the messages are: each node sends one sum to the driver."""

from itertools import count

import ray
from ray.actor import ActorProxy

from fedray.aggregation.messages import MessageSums
from fedray.backends.base import CallResult
from fedray.backends.ray.nodes import end_actor, on_node, this_node
from fedray.backends.ray.references import ray_get
from fedray.errors import LostError
from fedray.workers.requests import ClientMessages, Shared


class NodeReducer:
    """An actor that adds up the messages from the workers of its node."""

    def __init__(self) -> None:
        self._number = -1
        self._sum = MessageSums()

    @ray.method
    def add(self, number: int, messages: Shared[ClientMessages | None]) -> None:
        """Add messages to the sum with this number; a new number starts a new sum."""
        if number != self._number:
            self._number, self._sum = number, MessageSums()
        self._sum.add(_present(messages))

    @ray.method
    def result(self) -> MessageSums:
        """Return the sum."""
        return self._sum


class NodeReducers:
    """One `NodeReducer` on each node but the driver's, where the driver adds."""

    def __init__(self) -> None:
        self.driver_node = this_node()
        self._numbers = count()
        self._actors: dict[str, ActorProxy[NodeReducer]] = {}

    def new_sum(self) -> "DistributedSum":
        """Return an empty sum; former sums that were not finished are discarded."""
        return DistributedSum(self, next(self._numbers))

    def on(self, node: str) -> ActorProxy[NodeReducer]:
        """Return the reducer of a node, which is started when it is first needed."""
        if node not in self._actors:
            self._actors[node] = ray.remote(NodeReducer).options(num_cpus=0, scheduling_strategy=on_node(node)).remote()
        return self._actors[node]

    def remove(self, node: str) -> None:
        """End the reducer of a node, or forget that it was lost."""
        end_actor(self._actors.pop(node))

    def close(self) -> None:
        """End all reducers."""
        for node in list(self._actors):
            self.remove(node)


class DistributedSum:
    """One sum, spread over the nodes. Addition is exact, so the result does not depend on the division."""

    def __init__(self, reducers: NodeReducers, number: int) -> None:
        self._reducers = reducers
        self._number = number
        self._sum = MessageSums()
        self._additions: dict[str, list[ray.ObjectRef[None]]] = {}

    def add(self, result: CallResult[object]) -> None:
        """Add the messages of one result on the node where they are."""
        if result.node == self._reducers.driver_node:
            self._sum.add(_present(result.messages))
            return
        reducer = self._reducers.on(result.node)
        self._additions.setdefault(result.node, []).append(reducer.add.remote(self._number, result.messages))

    def total(self) -> MessageSums:
        """Return the sum over all nodes. Raises LostError where a node was lost."""
        sums = {node: self._reducers.on(node).result.remote() for node in self._additions}
        for node, reference in sums.items():
            try:
                ray_get(self._additions[node])  # raises the errors of the additions
                self._sum.add(ray_get(reference))
            except LostError:
                self._reducers.remove(node)
                raise
        return self._sum


def _present(messages: Shared[ClientMessages | None]) -> ClientMessages:
    present = messages.get()
    assert present is not None, "only results of training are added"
    return present
