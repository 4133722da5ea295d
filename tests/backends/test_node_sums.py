"""Runs on several nodes: sums on the nodes, and the loss of a node."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
from helpers import federated
from helpers.processes import wait_for
from ray.cluster_utils import Cluster
from safetensors.numpy import load_file

from fedray.aggregation.messages import MessageSums
from fedray.backends.base import CallResult
from fedray.backends.ray import dispatch
from fedray.backends.ray.actors import RayBackend
from fedray.backends.ray.node_sums import NodeReducers
from fedray.backends.ray.nodes import on_node
from fedray.backends.ray.references import RayShared
from fedray.config.experiment import Experiment
from fedray.errors import LostError, RunError
from fedray.server.driver import Driver
from fedray.types import Message, Progress, Waiting
from fedray.workers.requests import Evaluate, LocalValue

pytestmark = pytest.mark.ray

Make = Callable[..., Experiment]
STRATEGIES = {"fedavg": {"name": "fedavg"}, "fml": {"name": "fml"}}
"""FML's clients have private models, which the driver fetches from the nodes."""


@pytest.fixture
def nodes(three_nodes: Cluster) -> Cluster:
    """Three nodes, even if a test before has removed one."""
    while len([node for node in ray.nodes() if node["Alive"]]) < 3:
        three_nodes.add_node(num_cpus=1)
    return three_nodes


def finish(experiment: Experiment, folder: Path, after: Callable[[int, RayBackend], None]) -> dict[str, bytes]:
    """Run to the end on all nodes, and call `after` after each round."""
    driver = Driver(experiment.model_copy(update={"resources": ON_RAY}), folder)
    for result in driver.run():
        after(result.round, driver._backend)  # type: ignore[arg-type]
    return bits(folder)


ON_RAY = Experiment.model_validate({"resources": {"backend": "ray"}}).resources


def serially(experiment: Experiment, folder: Path) -> dict[str, bytes]:
    for _ in Driver(experiment, folder).run():
        pass
    return bits(folder)


def bits(folder: Path) -> dict[str, bytes]:
    """Bytes of the final weights and of each private model."""
    files = [folder / "model.safetensors", *sorted((folder / "checkpoint" / "clients").glob("*"))]
    return {f"{file.name}/{k}": v.tobytes() for file in files for k, v in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fml"])
def test_a_lost_node_and_a_new_one_change_no_bit(small: Make, nodes: Cluster, tmp_path: Path, strategy: str) -> None:
    """A node is lost after round 2, and another joins after round 4."""
    experiment = small(strategy=STRATEGIES[strategy], teacher=None, training={"rounds": 6})
    used: dict[int, set[str]] = {}

    def disturb(number: int, backend: RayBackend) -> None:
        if number in (1, 5):
            wait_for(lambda: not list(backend.ready()) and all(slot.node for slot in backend._pool.slots), 100)
        used[number] = {slot.node for slot in backend._pool.slots}
        if number == 2 and len(used) == 2:
            nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)
        if number == 4 and 5 not in used:
            nodes.add_node(num_cpus=1)
            nodes.wait_for_nodes()

    assert finish(experiment, tmp_path / "ray", disturb) == serially(experiment, tmp_path / "serial")
    faults = pd.read_csv(tmp_path / "ray" / "faults.csv")
    assert set(faults["fault"]) <= {"node lost", "worker lost"}
    assert len(faults) >= 1
    assert faults["round"].between(1, 4).all()
    assert len(used[2]) == 3
    joined = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - used[2]
    assert joined & used[6], "the node that joined has an actor"
    rounds = pd.read_csv(tmp_path / "ray" / "rounds.csv")
    assert rounds["round"].tolist() == [1, 2, 3, 4, 5, 6]


class TestSums:
    """Sums of weights on the nodes where the weights are."""

    @staticmethod
    def result_on(node: str, value: float, weight: int = 1) -> CallResult[None]:
        """A result with a message of 0.5 MB on a node: smaller objects travel inside Ray's messages."""

        @ray.remote(num_cpus=0)
        def create() -> dict[str, Message]:
            return {"weights": Message(weight, {"w": np.full(2**17, value, np.float32)})}

        reference: Any = create.options(scheduling_strategy=on_node(node)).remote()
        ray.wait([reference], fetch_local=False)
        return CallResult(0, None, RayShared(reference), LocalValue(None), node)

    @pytest.fixture
    def reducers(self, nodes: Cluster) -> Iterator[NodeReducers]:  # noqa: ARG002
        reducers = NodeReducers()
        yield reducers
        reducers.close()

    def test_the_mean_equals_that_of_one_process(self, reducers: NodeReducers) -> None:
        values = [0.1, -0.7, 3e-5, 1e5, 0.1, 12.25]
        places = [node["NodeID"] for node in ray.nodes() if node["Alive"]] * 2
        total, alone = reducers.new_sum(), MessageSums()
        for number, (value, node) in enumerate(zip(values, places, strict=True), start=1):
            total.add(self.result_on(node, value, number))
        for number, value in reversed([*enumerate(values, start=1)]):
            alone.add({"weights": Message(number, {"w": np.full(2**17, value, np.float32)})})
        means = [sums.aggregate().weights["w"].tobytes() for sums in (total.total(), alone)]
        assert means[0] == means[1]

    def test_an_unfinished_sum_is_discarded(self, reducers: NodeReducers) -> None:
        """A retried round starts at zero."""
        other = next(n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != reducers.driver_node)
        reducers.new_sum().add(self.result_on(other, 5.0))
        total = reducers.new_sum()
        total.add(self.result_on(other, 1.0))
        assert total.total().aggregate().weights["w"].max() == 1.0

    def test_a_lost_reducer_is_a_lost_error(self, reducers: NodeReducers) -> None:
        other = next(n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != reducers.driver_node)
        total = reducers.new_sum()
        total.add(self.result_on(other, 1.0))
        ray.kill(reducers.on(other))
        with pytest.raises(LostError):
            total.total()
        total = reducers.new_sum()  # the next sum has a new reducer
        total.add(self.result_on(other, 2.0))
        assert total.total().aggregate().weights["w"].max() == 2.0


@pytest.fixture
def release_cores(nodes: Cluster) -> Iterator[Callable[[], None]]:  # noqa: ARG001
    """Another job uses all cores until this is called."""

    class Taker:
        def ready(self) -> None:
            pass

    takers = [ray.remote(Taker).options(num_cpus=1).remote() for _ in range(3)]
    ray.get([taker.ready.remote() for taker in takers])

    def release() -> None:
        while takers:
            ray.kill(takers.pop())

    yield release
    release()


@pytest.mark.slow
def test_a_run_waits_for_a_busy_cluster_and_reports_it(
    small: Make, release_cores: Callable[[], None], tmp_path: Path
) -> None:
    driver = Driver(small(teacher=None, training={"rounds": 1}, resources={"backend": "ray"}), tmp_path)
    progress = list[Progress]()

    def release_at_first_message(event: Progress) -> None:
        progress.append(event)
        release_cores()

    assert [result.round for result in driver.run(release_at_first_message)] == [1]
    assert progress[0] == Waiting("3 of 3 workers have not started; the cluster has 0 of 3 cores free")


@pytest.mark.slow
@pytest.mark.usefixtures("release_cores")
def test_a_run_without_workers_ends_after_a_timeout(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "NO_WORKER_TIMEOUT_S", 6.0)
    experiment = small(teacher=None, resources={"backend": "ray"})
    backend = RayBackend(experiment, federated.load(experiment))
    try:
        with pytest.raises(RunError, match=r"no worker started within 0\.1 minutes: the cluster has 0 of 3 cores"):
            backend.collect([Evaluate((0, 10), backend.share({}))])
    finally:
        backend.close()
