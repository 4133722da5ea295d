"""Nodes of the Ray cluster: their descriptions, and actors on them."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, TypeVar

import ray
from ray.actor import ActorProxy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")


class RayNode(TypedDict):
    """An entry of `ray.nodes()`, with the keys that fedray reads."""

    NodeID: str
    NodeManagerAddress: str
    NodeManagerHostname: str
    RayletSocketName: str
    Alive: bool
    Resources: Mapping[str, float]  # empty for a node that has left
    DeathReason: NotRequired[int]
    DeathReasonMessage: NotRequired[str | None]


def all_nodes() -> Sequence[RayNode]:
    """Return Ray's description of each node, also of those that have left."""
    nodes: Sequence[RayNode] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def alive_nodes() -> Sequence[RayNode]:
    """Return Ray's description of each node that is alive."""
    return [node for node in all_nodes() if node["Alive"]]


def node_names() -> dict[str, str]:
    """Return host name and address of each node that is alive, by node id."""
    return {node["NodeID"]: f"{node['NodeManagerHostname']}, {node['NodeManagerAddress']}" for node in alive_nodes()}


def cluster_resources() -> Mapping[str, float]:
    """Return the resources of all nodes together: `CPU`, `GPU` and others."""
    resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def this_node() -> str:
    """Return the id of the node that this process runs on."""
    return ray.get_runtime_context().get_node_id()


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """Return the scheduling strategy of an actor or task that must run on a node."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def end_actor(actor: ActorProxy[T]) -> None:
    """End an actor, and the actors that it owns. Its present calls fail."""
    ray.kill(actor)  # type: ignore[arg-type]  # Ray types a handle as a union with its class, but `kill` without
