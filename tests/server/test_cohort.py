"""Who is trained together, and what becomes of clients whose worker is lost again and again."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from helpers import workers
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle

from fedray.backends.ray.actors import RayBackend
from fedray.config.experiment import Experiment
from fedray.server.cohort import batch_clients
from fedray.server.driver import Driver

cloudpickle.register_pickle_by_value(workers)

Make = Callable[..., Experiment]


def test_a_call_takes_its_part_of_what_is_left_largest_first() -> None:
    """Of 16 examples a quarter, of the 8 that are left a quarter, ..."""
    assert batch_clients({0: 1, 1: 2, 2: 8, 3: 4, 4: 1}, 4) == [[2], [3], [1], [0], [4]]
    assert batch_clients(dict.fromkeys(range(8), 1), 4) == [[0, 1], [2, 3], [4], [5], [6], [7]]
    assert batch_clients(dict.fromkeys(range(8), 10), 4) == [[0, 1], [2, 3], [4], [5], [6], [7]]
    assert batch_clients({}, 4) == []


def test_each_by_itself() -> None:
    assert batch_clients({7: 3, 1: 5, 4: 3}, None) == [[1], [7], [4]]


@given(st.dictionaries(st.integers(0, 9999), st.integers(1, 500), max_size=300), st.integers(1, 64))
def test_nobody_is_left_out_and_no_call_is_much_too_large(sizes: dict[int, int], parts: int) -> None:
    bundles = batch_clients(sizes, parts)
    flat = [client for bundle in bundles for client in bundle]
    assert sorted(flat) == sorted(sizes)
    assert [sizes[client] for client in flat] == sorted(sizes.values(), reverse=True)
    for number, bundle in enumerate(bundles):
        left = sum(sizes[client] for later in bundles[number:] for client in later)
        assert sum(sizes[client] for client in bundle[:-1]) < left / parts


def test_ten_thousand_clients_are_few_calls() -> None:
    """4 ln(10,000 / 4) and the last few: what costs is the examples, not the calls."""
    assert len(batch_clients(dict.fromkeys(range(10_000), 1), 4)) < 40


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_bundle_that_keeps_losing_its_worker_is_tried_one_by_one(small: Make, tmp_path: Path) -> None:
    """Client 2 always kills its worker: it is dropped, those beside it are trained."""
    experiment = small(
        partition={"kind": "iid", "clients": 8},
        training={"rounds": 1, "failures": "drop", "min_cohort": 7},
        teacher=None,
        resources={"backend": "ray", "clients_per_actor": 8},
    )
    for _ in Driver(experiment, tmp_path, partial(RayBackend, worker=workers.DeadlyWorker)).run():
        pass
    clients = pd.read_csv(tmp_path / "clients.csv").set_index("client")
    assert clients.index.tolist() == list(range(8))
    assert clients.index[clients["failure"].notna()].tolist() == [2]
    again = pd.read_csv(tmp_path / "faults.csv").query("response == 'made again'")["subject"].tolist()
    together = [subject for subject in again if subject.startswith("clients ")]
    assert len(set(together)) == 1
    assert "2" in together[0]
    assert (len(together), len(again) - len(together)) == (2, 2)  # each was made again twice, the third was the last
    assert set(again) - set(together) == {"client 2"}
