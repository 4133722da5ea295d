from collections.abc import Callable

import pytest

from fedray.backends.plan import cohort_size, plan_actors
from fedray.config import Experiment
from fedray.errors import SpecError

Make = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("resources", "participation", "cluster", "expected"),
    [
        # On CPUs, auto is one actor per core (or per so many cores), never more than the cohort.
        ({}, 1.0, {"CPU": 2}, (2, 1.0, 2)),
        ({"cpus_per_client": 2}, 1.0, {"CPU": 8}, (4, 2.0, 4)),
        ({}, 1.0, {"CPU": 64}, (10, 1.0, 10)),
        ({}, 0.3, {"CPU": 64}, (3, 1.0, 3)),
        # On GPUs, an actor of its own for each client of the cohort, as far as their memory goes.
        ({"gpus_per_client": 0.1}, 1.0, {"CPU": 16, "GPU": 1}, (10, 1.0, 10)),
        ({"gpus_per_client": 0.25}, 1.0, {"CPU": 16, "GPU": 1}, (4, 1.0, 4)),
        ({"gpus_per_client": 0.25}, 1.0, {"CPU": 2, "GPU": 4}, (10, 0.2, 2)),
        # Told how many, we do as told; where cores are short the actors take turns.
        ({"clients_per_actor": 1}, 1.0, {"CPU": 2}, (10, 0.2, 2)),
        ({"clients_per_actor": 3}, 1.0, {"CPU": 2}, (4, 0.5, 2)),
        ({"clients_per_actor": 10}, 1.0, {"CPU": 2}, (1, 1.0, 1)),
    ],
)
def test_how_many_actors(small: Make, resources: dict, participation: float, cluster: dict, expected: tuple) -> None:
    experiment = small(resources=resources, training={"participation": participation})
    plan = plan_actors(experiment, 10, cluster)
    assert (plan.actors, plan.cpus_per_actor, plan.at_once) == expected
    assert plan.gpus_per_actor == experiment.resources.gpus_per_client


@pytest.mark.parametrize("actors", range(1, 60))
def test_reservations_never_exceed_the_cluster(small: Make, actors: int) -> None:
    plan = plan_actors(small(resources={"clients_per_actor": 1}), actors, {"CPU": 7})
    assert plan.actors * plan.cpus_per_actor <= 7 + 1e-9


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"gpus_per_client": 0.5}, "gpus_per_client is 0.5, but the cluster has 0 GPUs"),
        ({"cpus_per_client": 4}, "cpus_per_client is 4, but the cluster has 2 cores"),
    ],
)
def test_what_does_not_fit_is_refused(small: Make, resources: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan_actors(small(resources=resources), 10, {"CPU": 2})


def test_cohort_size() -> None:
    assert [cohort_size(10, p) for p in (1.0, 0.5, 0.1, 0.04)] == [10, 5, 1, 1]
