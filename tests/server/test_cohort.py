"""Batches of clients, and clients whose worker is lost repeatedly."""

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


def test_batches_are_parts_of_the_remaining_examples() -> None:
    """A quarter of 16 examples, a quarter of the remaining 8, ..."""
    assert batch_clients({0: 1, 1: 2, 2: 8, 3: 4, 4: 1}, 4) == [[2], [3], [1], [0], [4]]
    assert batch_clients(dict.fromkeys(range(8), 1), 4) == [[0, 1], [2, 3], [4], [5], [6], [7]]
    assert batch_clients(dict.fromkeys(range(8), 10), 4) == [[0, 1], [2, 3], [4], [5], [6], [7]]
    assert batch_clients({}, 4) == []


def test_without_parts_each_client_is_a_batch() -> None:
    assert batch_clients({7: 3, 1: 5, 4: 3}, None) == [[1], [7], [4]]


@given(st.dictionaries(st.integers(0, 9999), st.integers(1, 500), max_size=300), st.integers(1, 64))
def test_batches_include_all_clients_and_are_not_too_large(sizes: dict[int, int], parts: int) -> None:
    batches = batch_clients(sizes, parts)
    flat = [client for batch in batches for client in batch]
    assert sorted(flat) == sorted(sizes)
    assert [sizes[client] for client in flat] == sorted(sizes.values(), reverse=True)
    for number, batch in enumerate(batches):
        remaining = sum(sizes[client] for later in batches[number:] for client in later)
        assert sum(sizes[client] for client in batch[:-1]) < remaining / parts


def test_ten_thousand_clients_are_few_batches() -> None:
    """About 4 ln(10,000 / 4): time goes into the examples, not into the requests."""
    assert len(batch_clients(dict.fromkeys(range(10_000), 1), 4)) < 40


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_batch_that_keeps_losing_its_worker_is_split(small: Make, tmp_path: Path) -> None:
    """Client 2 always kills its worker: it is dropped, and the others of its batch are trained."""
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
    retried = pd.read_csv(tmp_path / "faults.csv").query("response == 'retried'")["subject"].tolist()
    together = [subject for subject in retried if subject.startswith("clients ")]
    assert len(set(together)) == 1
    assert "2" in together[0]
    assert (len(together), len(retried) - len(together)) == (2, 2)  # three attempts each, the last without a row
    assert set(retried) - set(together) == {"client 2"}


def test_cohort_size_is_rounded_and_positive(small: Make) -> None:
    sizes = [small(training={"participation": share}).training.cohort_size(10) for share in (1.0, 0.5, 0.1, 0.04)]
    assert sizes == [10, 5, 1, 1]
