"""Numbers of actors and of trials, and the resources that each reserves."""

from collections.abc import Callable

import pytest

from fedray.backends.ray.placement import plan_actors, portion
from fedray.config.experiment import Experiment
from fedray.errors import SpecError

Make = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("resources", "participation", "cluster", "expected"),
    [
        # On CPUs, auto is one actor per cpus_per_client cores, and never more than the cohort.
        ({}, 1.0, {"CPU": 2}, (2, 1.0, 2)),
        ({"cpus_per_client": 2}, 1.0, {"CPU": 8}, (4, 2.0, 4)),
        ({}, 1.0, {"CPU": 64}, (10, 1.0, 10)),
        ({}, 0.3, {"CPU": 64}, (3, 1.0, 3)),
        # On GPUs, one actor per client of the cohort, as long as they fit on the GPUs.
        ({"gpus_per_client": 0.1}, 1.0, {"CPU": 16, "GPU": 1}, (10, 1.0, 10)),
        ({"gpus_per_client": 0.25}, 1.0, {"CPU": 16, "GPU": 1}, (4, 1.0, 4)),
        ({"gpus_per_client": 0.25}, 1.0, {"CPU": 2, "GPU": 4}, (10, 0.2, 2)),
        # A number of clients per actor is binding; with too few cores the actors take turns.
        ({"clients_per_actor": 1}, 1.0, {"CPU": 2}, (10, 0.2, 2)),
        ({"clients_per_actor": 3}, 1.0, {"CPU": 2}, (4, 0.5, 2)),
        ({"clients_per_actor": 10}, 1.0, {"CPU": 2}, (1, 1.0, 1)),
    ],
)
def test_number_of_actors(small: Make, resources: dict, participation: float, cluster: dict, expected: tuple) -> None:
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
def test_a_client_that_does_not_fit_is_an_error(small: Make, resources: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan_actors(small(resources=resources), 10, {"CPU": 2})


@pytest.mark.parametrize(
    ("resources", "participation", "cluster", "most", "at_once", "part"),
    [
        # On CPUs, a trial gets the cores of one client, as long as there are enough trials.
        ({}, 1.0, {"CPU": 8}, 100, 8, {"CPU": 1, "GPU": 0}),
        ({}, 1.0, {"CPU": 8}, 3, 3, {"CPU": 8 / 3, "GPU": 0}),
        ({}, 1.0, {"CPU": 8}, 1, 1, {"CPU": 8, "GPU": 0}),
        ({"cpus_per_client": 3}, 1.0, {"CPU": 8}, 100, 2, {"CPU": 4, "GPU": 0}),
        ({"cpus_per_client": 0.5}, 1.0, {"CPU": 2}, 100, 4, {"CPU": 0.5, "GPU": 0}),
        ({"clients_per_actor": 1}, 1.0, {"CPU": 2}, 100, 2, {"CPU": 1, "GPU": 0}),
        # On GPUs, a trial gets the share of a whole cohort, of several GPUs if necessary.
        ({"gpus_per_client": 0.1}, 1.0, {"CPU": 16, "GPU": 1}, 100, 1, {"CPU": 16, "GPU": 1}),
        ({"gpus_per_client": 0.1}, 1.0, {"CPU": 16, "GPU": 4}, 100, 4, {"CPU": 4, "GPU": 1}),
        ({"gpus_per_client": 0.1}, 0.2, {"CPU": 16, "GPU": 1}, 100, 5, {"CPU": 3.2, "GPU": 0.2}),
        ({"gpus_per_client": 0.25}, 1.0, {"CPU": 16, "GPU": 4}, 100, 1, {"CPU": 16, "GPU": 4}),
        ({"gpus_per_client": 0.5}, 1.0, {"CPU": 16, "GPU": 1}, 100, 1, {"CPU": 16, "GPU": 1}),
        # A client needs its cores as well, even if more clients fit on the GPU.
        ({"gpus_per_client": 0.1}, 0.2, {"CPU": 2, "GPU": 1}, 100, 2, {"CPU": 1, "GPU": 0.5}),
        ({"gpus_per_client": 0.1, "cpus_per_client": 4}, 0.2, {"CPU": 4, "GPU": 1}, 100, 1, {"CPU": 4, "GPU": 1}),
    ],
)
def test_number_of_trials_at_once_and_their_resources(
    small: Make, resources: dict, participation: float, cluster: dict, most: int, at_once: int, part: dict
) -> None:
    experiment = small(resources=resources, training={"participation": participation})
    assert portion({experiment: 10}, cluster, most) == (at_once, pytest.approx(part))


def test_the_largest_trial_decides_for_all(small: Make) -> None:
    sizes = {small(): 10, small(resources={"cpus_per_client": 4}): 10, small(seed=1): 2}
    assert portion(sizes, {"CPU": 8}, 100) == (2, {"CPU": 4, "GPU": 0})
    cohorts = {small(resources={"gpus_per_client": 0.1}, seed=clients): clients for clients in (1, 5, 2)}
    assert portion(cohorts, {"CPU": 8, "GPU": 1}, 100) == (2, {"CPU": 4, "GPU": 0.5})


@pytest.mark.parametrize("gpus_per_client", [0, 0.1, 0.15, 0.3, 0.35, 0.7, 1])
@pytest.mark.parametrize("cpus_per_client", [0.1, 0.3, 0.7, 1, 1.1, 2])
def test_every_trial_fits_into_its_part(small: Make, gpus_per_client: float, cpus_per_client: float) -> None:
    resources = {"gpus_per_client": gpus_per_client, "cpus_per_client": cpus_per_client}
    experiment = small(resources=resources)
    for clients in (1, 3, 10):
        for cores in (2, 3, 7):
            for most in (1, 3, 100):
                at_once, part = portion({experiment: clients}, {"CPU": cores, "GPU": 3}, most)
                plan = plan_actors(experiment, clients, part)  # raises SpecError if it does not fit
                assert 1 <= at_once <= most
                assert at_once * plan.actors * plan.cpus_per_actor <= cores + 1e-6
                assert at_once * plan.actors * plan.gpus_per_actor <= 3 + 1e-6


def test_a_trial_that_never_fits_is_an_error(small: Make) -> None:
    with pytest.raises(SpecError, match="cpus_per_client is 4, but the cluster has 2 cores"):
        portion({small(): 10, small(resources={"cpus_per_client": 4}): 10}, {"CPU": 2}, 100)
