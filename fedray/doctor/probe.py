"""Asks a cluster and its nodes for the facts. A node that is stuck costs its time limit, and no more."""

import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedray.cache import cache_folder
from fedray.doctor import node as on_node
from fedray.doctor.report import ClusterReport, Gpu, Node, NodeReport, Place, Reach, Requirements, Software
from fedray.errors import SpecError
from fedray.results.remote import Remote
from fedray.results.storage import is_uri

PROBE_TIMEOUT_S = 60.0
"""Seconds that a node may take to answer: its first process may have to be started from a slow disk."""
SETTLING = 5.0
"""Seconds until what another node has written may be seen through a network's file system."""
MEANT = (1, 3, 4)
"""Ray's reasons of a node's end that somebody wanted: stopped, or drained."""


def probe(results: str | None, wanted: Requirements | None, *, lock_timeout: float = PROBE_TIMEOUT_S) -> ClusterReport:
    """The facts of the cluster that this process is connected to."""
    teacher_client = NodeProber(lock_timeout)
    nodes = teacher_client.nodes([file.text for file in wanted.files] if wanted else [])
    return ClusterReport(
        nodes=nodes,
        software=software_of(on_node.software()),
        results=teacher_client.place(results or "results"),
        teacher_cache=teacher_client.place(str(cache_folder())),
        wanted=wanted,
        no_actor=teacher_client.no_actor(),
        results_meant=results is not None,
    )


def software_of(told: Mapping[str, Any]) -> Software:
    return Software(**told)


class NodeProber:
    """Asks all nodes at once. One that has not answered is not asked again."""

    def __init__(self, lock_timeout: float) -> None:
        # By value: a node may have another fedray than this one, or none.
        ray.cloudpickle.register_pickle_by_value(on_node)  # type: ignore[no-untyped-call]
        self._lock_timeout = lock_timeout
        self._known = [each for each in ray.nodes() if each["Alive"]]  # type: ignore[no-untyped-call]
        self._gone = [each for each in ray.nodes() if not each["Alive"]]  # type: ignore[no-untyped-call]
        self._names = _names([*self._known, *self._gone])
        self._silent: dict[str, str] = {}

    def nodes(self, files: list[str]) -> list[Node]:
        """All nodes, this one first, those that are gone last."""
        # Ray has no public way to ask it; asked before our own questions.
        free: Mapping[str, Mapping[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
        told = self._ask(on_node.look, lambda _: (files,))
        with_gpus = [each["NodeID"] for each in self._known if each["Resources"].get("GPU")]
        gpus = self._ask(on_node.gpus, lambda _: (), only=with_gpus, keep=False)
        here = ray.get_runtime_context().get_node_id()
        found = []
        for each in sorted(self._known, key=lambda each: (each["NodeID"] != here, self._names[each["NodeID"]])):
            known = each["NodeID"]
            said = told.get(known)
            found.append(self._node(each, free.get(known, {}), known == here, said, gpus.get(known)))
        return found + [self._left(each) for each in self._gone]

    def no_actor(self) -> str:
        """Why none comes up on this node; empty where one does."""
        here = _pinned(ray.get_runtime_context().get_node_id())
        made: Any = ray.remote(on_node.Present)
        actor = made.options(num_cpus=0, scheduling_strategy=here).remote()
        try:
            ray.get(actor.answer.remote(), timeout=self._lock_timeout)
        except RayError as error:
            return _reason(error)
        finally:
            ray.kill(actor)
        return ""

    def place(self, path: str) -> Place:
        """Leave a word in it, see who finds it there, and see what they reply."""
        path = path if is_uri(path) else str(Path(path).absolute())
        token, silent = secrets.token_hex(16), set(self._silent)
        try:
            with _marked(path, token) as (mark, replies):
                told = self._ask(on_node.visit, lambda known: (path, mark, known))
                expected = {known for known, (said, _, _) in told.items() if said and said["read"] == token}
                seen = _seen(replies, expected)
        except (OSError, SpecError) as error:
            return Place(path, getattr(error, "strerror", None) or str(error).rstrip("."))
        reached = {self._names[known]: _reach(said, known in seen, token) for known, (said, _, _) in told.items()}
        late = {self._names[known]: Reach(False, why) for known, why in self._silent.items() if known not in silent}
        return Place(path, "", reached | late)

    def _ask(
        self,
        question: Callable[..., Any],
        arguments: Callable[[str], tuple[Any, ...]],
        only: Sequence[str] | None = None,
        *,
        keep: bool = True,
    ) -> dict[str, tuple[Any, float, float]]:
        """Each node's answer, when it was asked and when that was there. Who fails is silent from now on."""
        wanted = [each["NodeID"] for each in self._known if each["NodeID"] not in self._silent]
        wanted = [known for known in wanted if only is None or known in only]
        asked = time.time()
        task = ray.remote(num_cpus=0, max_retries=0, max_calls=0 if keep else 1)(question)
        pending = {
            task.options(scheduling_strategy=_pinned(known)).remote(*arguments(known)): known for known in wanted
        }
        answers, deadline = {}, time.monotonic() + self._lock_timeout
        while pending:
            left = max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=left)
            if not ready:
                break
            known = pending.pop(ready[0])
            try:
                answers[known] = ray.get(ready[0]), asked, time.time()
            except RayError as error:
                self._silent[known] = f"cannot answer ({_reason(error)})"
        for reference, known in pending.items():
            self._silent[known] = f"does not answer within {self._lock_timeout:g} s"
            ray.cancel(reference, force=True)
        return answers

    def _node(
        self,
        each: Mapping[str, Any],
        free: Mapping[str, float],
        here: bool,
        told: tuple[Any, float, float] | None,
        gpus: tuple[Any, float, float] | None,
    ) -> Node:
        has = each["Resources"]
        return Node(
            name=self._names[each["NodeID"]],
            address=each["NodeManagerAddress"],
            here=here,
            cores=has.get("CPU", 0),
            free_cores=free.get("CPU", 0),
            gpus=has.get("GPU", 0),
            free_gpus=free.get("GPU", 0),
            store=has.get("object_store_memory", 0),
            silence=self._silent.get(each["NodeID"], ""),
            answer=_answer(*told, gpus) if told else None,
        )

    def _left(self, each: Mapping[str, Any]) -> Node:
        return Node(
            name=self._names[each["NodeID"]],
            address=each["NodeManagerAddress"],
            left=each.get("DeathReasonMessage") or "no reason known",
            meant_to_leave=each.get("DeathReason") in MEANT,
        )


def _answer(told: Mapping[str, Any], asked: float, got: float, gpus: tuple[Any, float, float] | None) -> NodeReport:
    return NodeReport(
        software=software_of(told["software"]),
        disk=tuple(told["disk"]),
        temp=told["temp"],
        folder=told["folder"],
        memory=told["memory"],
        bfloat16=told["bfloat16"],
        clock=max(0.0, told["time"] - got) or min(0.0, told["time"] - asked),
        files=told["files"],
        gpus=tuple(Gpu(*each) for each in gpus[0]) if gpus else None,
    )


def _reach(said: Mapping[str, Any], seen: bool, token: str) -> Reach:
    problem = said["problem"]
    if said["read"] == token and not seen:
        problem = "what it writes there is not seen here"
    return Reach(seen, problem, said["free"])


@contextmanager
def _marked(place: str, token: str) -> Iterator[tuple[str, Callable[[], set[str]]]]:
    """A folder of our own in the place, with the token in it, and a look at what is there; all gone at the end."""
    mark = f".fedray-doctor-{secrets.token_hex(4)}"
    with _marked_uri(place, mark, token) if is_uri(place) else _marked_folder(Path(place), mark, token) as replies:
        yield mark, replies


@contextmanager
def _marked_folder(folder: Path, mark: str, token: str) -> Iterator[Callable[[], set[str]]]:
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        (folder / mark).mkdir(parents=True)
        (folder / mark / "token").write_text(token)
        yield lambda: {each.name for each in (folder / mark).iterdir()}
    finally:
        shutil.rmtree(folder / mark, ignore_errors=True)
        for each in new:
            with suppress(OSError):
                each.rmdir()


@contextmanager
def _marked_uri(uri: str, mark: str, token: str) -> Iterator[Callable[[], set[str]]]:
    own = Remote(uri, mark)
    with own.reached(SpecError), tempfile.TemporaryDirectory() as here:
        file = Path(here) / "token"
        file.write_text(token)
        own.upload(file, "token")
        try:
            yield lambda: set(own.facts())
        finally:
            Remote(uri, "").delete(mark)


def _seen(replies: Callable[[], set[str]], expected: set[str]) -> set[str]:
    """Those whose reply has come."""
    deadline = time.monotonic() + SETTLING
    while not expected <= (found := replies()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return expected & found


def _names(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By their ids; with a part of it where several have one name."""
    hosts = Counter(each["NodeManagerHostname"] for each in nodes)

    def name(each: Mapping[str, Any]) -> str:
        host = str(each["NodeManagerHostname"])
        return host if hosts[host] == 1 else f"{host}/{each['NodeID'][:4]}"

    return {each["NodeID"]: name(each) for each in nodes}


def _reason(error: RayError) -> str:
    cause = error.cause if isinstance(error, RayTaskError) else error
    return (str(cause) or type(cause).__name__).strip().partition("\n")[0].rstrip(".")


def _pinned(known: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(known, soft=False)
