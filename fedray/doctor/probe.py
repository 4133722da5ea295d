"""Probes a Ray cluster and its nodes. An unresponsive node costs one timeout, because it is not queried again."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError, RayTaskError

from fedray.backends.ray.nodes import RayNode, all_nodes, on_node, this_node
from fedray.cache import cache_folder
from fedray.doctor import node as node_functions
from fedray.doctor.node import AccessDict, NodeDict
from fedray.doctor.report import Access, Bytes, ClusterReport, Gpu, Node, NodeReport, SharedPath, Software
from fedray.doctor.requirements import Requirements
from fedray.doctor.shared_path import token_folder, wait_for_files
from fedray.errors import SpecError
from fedray.results.storage import is_uri

PROBE_TIMEOUT_S = 60.0
"""Seconds that a node has to respond; its first worker process may start from a slow disk."""
INTENDED_EXITS = (1, 3, 4)
"""Ray's death reasons of nodes that a user stopped or drained."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Response(Generic[T]):
    """The result of a function on a node, and this process's clock before and after the call."""

    result: T
    sent: float
    received: float


def probe(
    results: str | None, requirements: Requirements | None, *, timeout_s: float = PROBE_TIMEOUT_S
) -> ClusterReport:
    """Probe the cluster to which this process is connected."""
    prober = NodeProber(timeout_s)
    nodes = prober.nodes([file.text for file in requirements.files] if requirements else [])
    return ClusterReport(
        nodes=nodes,
        software=Software(**node_functions.software()),
        results=prober.shared_path(results or "results"),
        teacher_cache=prober.shared_path(str(cache_folder())),
        requirements=requirements,
        actor_error=prober.actor_error(),
        has_results_option=results is not None,
    )


class NodeProber:
    """Queries all nodes at once. A node that fails or times out is not queried again."""

    def __init__(self, timeout_s: float) -> None:
        # By value, because a node may have another fedray, or none.
        ray.cloudpickle.register_pickle_by_value(node_functions)  # type: ignore[no-untyped-call]
        self._timeout_s = timeout_s
        nodes = all_nodes()
        self._alive = [node for node in nodes if node["Alive"]]
        self._dead = [node for node in nodes if not node["Alive"]]
        self._names = _names(nodes)
        self._errors: dict[str, str] = {}

    def nodes(self, files: list[str]) -> list[Node]:
        """Return all nodes, this one first and those that have left last."""
        # Ray has no public function for the free resources of a node. Queried before tasks of ours take some.
        free: Mapping[str, Mapping[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
        descriptions = self._call(node_functions.describe_node, lambda _: (files,))
        with_gpus = [node["NodeID"] for node in self._alive if node["Resources"].get("GPU")]
        gpus = self._call(node_functions.list_gpus, lambda _: (), only=with_gpus, reuse_process=False)
        local = this_node()
        alive = []
        for node in sorted(self._alive, key=lambda node: (node["NodeID"] != local, self._names[node["NodeID"]])):
            node_id = node["NodeID"]
            report = _node_report(descriptions.get(node_id), gpus.get(node_id))
            alive.append(self._alive_node(node, free.get(node_id, {}), report, is_local=node_id == local))
        return alive + [self._dead_node(node) for node in self._dead]

    def actor_error(self) -> str:
        """Start an actor on this node. Return why it did not start, or an empty string."""
        actor_class: Any = ray.remote(node_functions.PingActor)
        actor = actor_class.options(num_cpus=0, scheduling_strategy=on_node(this_node())).remote()
        try:
            ray.get(actor.ping.remote(), timeout=self._timeout_s)
        except RayError as error:
            return _reason(error)
        finally:
            ray.kill(actor)
        return ""

    def shared_path(self, path: str) -> SharedPath:
        """Determine which nodes can read and write a folder or URI of this process."""
        path = path if is_uri(path) else str(Path(path).absolute())
        token, failed_before = secrets.token_hex(16), set(self._errors)
        try:
            with token_folder(path, token) as (mark, list_files):
                responses = self._call(node_functions.reply_to_token, lambda node_id: (path, mark, node_id))
                expected = {node_id for node_id, reply in responses.items() if reply.result["token"] == token}
                visible = wait_for_files(list_files, expected)
        except OSError as error:
            return SharedPath(path, error.strerror or str(error).rstrip("."))
        except SpecError as error:
            return SharedPath(path, str(error).rstrip("."))
        access = {
            self._names[node_id]: _access(reply.result, token, is_visible=node_id in visible)
            for node_id, reply in responses.items()
        }
        failed = {id_: error for id_, error in self._errors.items() if id_ not in failed_before}
        return SharedPath(path, "", access | {self._names[id_]: Access(False, error) for id_, error in failed.items()})

    def _call(
        self,
        function: Callable[..., T],
        arguments: Callable[[str], tuple[object, ...]],
        only: Sequence[str] | None = None,
        *,
        reuse_process: bool = True,
    ) -> dict[str, _Response[T]]:
        """Run a function on all nodes, or those of `only`. Return the responses by node id, and records errors."""
        node_ids = [node["NodeID"] for node in self._alive if node["NodeID"] not in self._errors]
        node_ids = [node_id for node_id in node_ids if only is None or node_id in only]
        sent = time.time()
        task = ray.remote(num_cpus=0, max_retries=0, max_calls=0 if reuse_process else 1)(function)
        pending = {
            task.options(scheduling_strategy=on_node(node_id)).remote(*arguments(node_id)): node_id
            for node_id in node_ids
        }
        responses: dict[str, _Response[T]] = {}
        deadline = time.monotonic() + self._timeout_s
        while pending:
            remaining = max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=remaining)
            if not ready:
                break
            node_id = pending.pop(ready[0])
            try:
                responses[node_id] = _Response(ray.get(ready[0]), sent, time.time())
            except RayError as error:
                self._errors[node_id] = f"cannot run a task ({_reason(error)})"
        for reference, node_id in pending.items():
            self._errors[node_id] = f"does not respond within {self._timeout_s:g} s"
            ray.cancel(reference, force=True)
        return responses

    def _alive_node(
        self, node: RayNode, free: Mapping[str, float], report: NodeReport | None, *, is_local: bool
    ) -> Node:
        resources = node["Resources"]
        return Node(
            name=self._names[node["NodeID"]],
            address=node["NodeManagerAddress"],
            is_local=is_local,
            cores=resources.get("CPU", 0),
            free_cores=free.get("CPU", 0),
            gpus=resources.get("GPU", 0),
            free_gpus=free.get("GPU", 0),
            object_store_bytes=resources.get("object_store_memory", 0),
            probe_error=self._errors.get(node["NodeID"], ""),
            report=report,
        )

    def _dead_node(self, node: RayNode) -> Node:
        return Node(
            name=self._names[node["NodeID"]],
            address=node["NodeManagerAddress"],
            exit_reason=node.get("DeathReasonMessage") or "no reason known",
            exit_was_intended=node.get("DeathReason") in INTENDED_EXITS,
        )


def _node_report(
    response: _Response[NodeDict] | None, gpus: _Response[list[tuple[str, int, int]]] | None
) -> NodeReport | None:
    if response is None:
        return None
    node = response.result
    return NodeReport(
        software=Software(**node["software"]),
        disk=Bytes(*node["disk"]),
        temp_folder=node["temp_folder"],
        working_folder=node["working_folder"],
        memory=Bytes(*node["memory"]) if node["memory"] else None,
        has_bfloat16=node["bfloat16"],
        # The node read its clock at some time between `sent` and `received`.
        clock_offset_s=max(0.0, node["time"] - response.received) or min(0.0, node["time"] - response.sent),
        file_sizes=node["file_sizes"],
        gpus=tuple(Gpu(*gpu) for gpu in gpus.result) if gpus else None,
    )


def _access(reply: AccessDict, token: str, *, is_visible: bool) -> Access:
    if reply["token"] == token and not is_visible:
        return Access(False, "files that it writes there are not visible here", reply["free_bytes"])
    return Access(is_visible, reply["error"], reply["free_bytes"])


def _names(nodes: Sequence[RayNode]) -> dict[str, str]:
    """Return host names by node id, with the start of the id where several nodes have one host name."""
    hosts = Counter(node["NodeManagerHostname"] for node in nodes)
    unique = {node["NodeID"]: hosts[node["NodeManagerHostname"]] == 1 for node in nodes}
    return {
        node["NodeID"]: node["NodeManagerHostname"] + ("" if unique[node["NodeID"]] else f"/{node['NodeID'][:4]}")
        for node in nodes
    }


def _reason(error: RayError) -> str:
    cause = error.cause if isinstance(error, RayTaskError) else error
    return (str(cause) or type(cause).__name__).strip().partition("\n")[0].rstrip(".")
