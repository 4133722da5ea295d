"""On several nodes: what crosses the network, and what is left when a node goes."""

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

from fedray.aggregation.exact_mean import ExactMean
from fedray.backends.base import CallResult
from fedray.backends.ray import dispatch
from fedray.backends.ray.actors import RayBackend
from fedray.backends.ray.node_sums import NodeReducers, on_node
from fedray.config.experiment import Experiment
from fedray.errors import LostError, RunError
from fedray.server.driver import Driver
from fedray.types import RoundResult, Waiting

pytestmark = pytest.mark.ray

Make = Callable[..., Experiment]
STRATEGIES = {"fedavg": {"name": "fedavg"}, "fml": {"name": "fml"}}
"""FML's clients keep private models, which the driver fetches from the node where they were made."""


@pytest.fixture
def nodes(three_nodes: Cluster) -> Cluster:
    """Three of them, whatever the test before has done."""
    while len([node for node in ray.nodes() if node["Alive"]]) < 3:
        three_nodes.add_node(num_cpus=1)
    return three_nodes


def finish(experiment: Experiment, folder: Path, after: Callable[[int, RayBackend], None]) -> dict[str, bytes]:
    """Run to the end on all nodes; `after` each round, something may happen."""
    driver = Driver(experiment.model_copy(update={"resources": ON_RAY}), folder)
    for event in driver.run():
        if isinstance(event, RoundResult):
            after(event.round, driver._backend)  # type: ignore[arg-type]
    return bits(folder)


ON_RAY = Experiment.model_validate({"resources": {"backend": "ray"}}).resources


def serially(experiment: Experiment, folder: Path) -> dict[str, bytes]:
    for _ in Driver(experiment, folder).run():
        pass
    return bits(folder)


def bits(folder: Path) -> dict[str, bytes]:
    """Of the final weights, and of each private model."""
    files = [folder / "model.safetensors", *sorted((folder / "checkpoint" / "private").glob("*"))]
    return {f"{file.name}/{k}": v.tobytes() for file in files for k, v in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fml"])
def test_a_node_is_lost_and_another_joins(small: Make, nodes: Cluster, tmp_path: Path, strategy: str) -> None:
    """Lost after round 2, in another's place after round 4: the bits are those of an undisturbed run."""
    experiment = small(strategy=STRATEGIES[strategy], teacher=None, training={"rounds": 6})
    used: dict[int, set[str]] = {}

    def happen(number: int, backend: RayBackend) -> None:
        if number in (1, 5):
            wait_for(lambda: not list(backend.ready()) and all(post.node for post in backend._pool.posts), 100)
        used[number] = {post.node for post in backend._pool.posts}
        if number == 2 and len(used) == 2:
            nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)
        if number == 4 and 5 not in used:
            nodes.add_node(num_cpus=1)
            nodes.wait_for_nodes()

    assert finish(experiment, tmp_path / "ray", happen) == serially(experiment, tmp_path / "serial")
    faults = pd.read_csv(tmp_path / "ray" / "faults.csv")
    assert set(faults["fault"]) <= {"node lost", "worker lost"}
    assert len(faults) >= 1
    assert faults["round"].between(1, 4).all()
    assert len(used[2]) == 3
    late = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - used[2]
    assert late & used[6], "the node that joined has an actor"
    rounds = pd.read_csv(tmp_path / "ray" / "rounds.csv")
    assert rounds["round"].tolist() == [1, 2, 3, 4, 5, 6]


class TestSums:
    """Weights are added up on the nodes where they are."""

    @staticmethod
    def made_on(node: str, value: float) -> CallResult:
        """Weights of half a megabyte: smaller things travel in Ray's messages anyway."""

        @ray.remote(num_cpus=0)
        def make() -> dict[str, Any]:
            return {"w": np.full(2**17, value, np.float32)}

        reference = make.options(scheduling_strategy=on_node(node)).remote()
        ray.wait([reference], fetch_local=False)
        return CallResult(0, None, reference, where=node)

    @pytest.fixture
    def adders(self, nodes: Cluster) -> Iterator[NodeReducers]:  # noqa: ARG002
        adders = NodeReducers()
        yield adders
        adders.close()

    def test_the_mean_is_that_of_one_place(self, adders: NodeReducers) -> None:
        values = [0.1, -0.7, 3e-5, 1e5, 0.1, 12.25]
        places = [node["NodeID"] for node in ray.nodes() if node["Alive"]] * 2
        total, alone = adders.total(), ExactMean()
        for number, (value, node) in enumerate(zip(values, places, strict=True), start=1):
            total.add(self.made_on(node, value), number)
        for number, value in reversed([*enumerate(values, start=1)]):
            alone.add({"w": np.full(2**17, value, np.float32)}, number)
        like = {"w": np.zeros(2**17, np.float32)}
        assert total.mean().mean(like)["w"].tobytes() == alone.mean(like)["w"].tobytes()

    def test_a_sum_that_was_left_is_forgotten(self, adders: NodeReducers) -> None:
        """A round that is run again begins at zero."""
        other = next(n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != adders.here)
        adders.total().add(self.made_on(other, 5.0), 1)
        total = adders.total()
        total.add(self.made_on(other, 1.0), 1)
        assert total.mean().mean({"w": np.zeros(2**17, np.float32)})["w"].max() == 1.0

    def test_one_that_is_lost_says_so(self, adders: NodeReducers) -> None:
        other = next(n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != adders.here)
        total = adders.total()
        total.add(self.made_on(other, 1.0), 1)
        ray.kill(adders.on(other))
        with pytest.raises(LostError):
            total.mean()
        total = adders.total()  # the next has an adder again
        total.add(self.made_on(other, 2.0), 1)
        assert total.mean().mean({"w": np.zeros(2**17, np.float32)})["w"].max() == 2.0


@pytest.fixture
def takers(nodes: Cluster) -> Iterator[Callable[[], None]]:  # noqa: ARG001
    """Another job holds all cores. Calling this lets them go."""

    class Taker:
        def here(self) -> None:
            pass

    takers = [ray.remote(Taker).options(num_cpus=1).remote() for _ in range(3)]
    ray.get([taker.here.remote() for taker in takers])

    def let_go() -> None:
        while takers:
            ray.kill(takers.pop())

    yield let_go
    let_go()


@pytest.mark.slow
def test_a_taken_cluster_is_waited_for_with_a_word(small: Make, takers: Callable[[], None], tmp_path: Path) -> None:
    driver = Driver(small(teacher=None, training={"rounds": 1}, resources={"backend": "ray"}), tmp_path)
    events = driver.run()
    first = next(events)
    assert first == Waiting("3 of 3 workers have not started; the cluster has 0 of 3 cores free")
    takers()
    assert [type(event) for event in events if not isinstance(event, Waiting)] == [RoundResult]


@pytest.mark.slow
@pytest.mark.usefixtures("takers")
def test_a_round_without_workers_ends_the_run_after_a_while(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE", 6.0)
    experiment = small(teacher=None, resources={"backend": "ray"})
    backend = RayBackend(experiment, federated.load(experiment))
    try:
        with pytest.raises(
            RunError, match=r"no worker could be started for 0\.1 minutes: the cluster has 0 of 3 cores"
        ):
            backend.collect("evaluate", [((0, 10), {})])
    finally:
        backend.close()
