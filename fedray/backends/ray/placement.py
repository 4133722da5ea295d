"""The number of actors, the resources that each reserves, and the number of trials that run at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedray.config.experiment import Experiment
from fedray.errors import SpecError


@dataclass(frozen=True)
class Plan:
    """The actors of one experiment."""

    actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    at_once: int  # actors that work at the same time


def plan_actors(
    experiment: Experiment, clients: int, cluster: Mapping[str, float], nodes: Sequence[Mapping[str, float]] = ()
) -> Plan:
    """Plan the actors of `clients` on a cluster with a number of `CPU` and `GPU`.

    `nodes` are the resources of each node: an actor fits on one of them. A GPU is never overbooked. With more actors
    than cores, each reserves less than its share and they take turns. Raises SpecError where not even one client fits.
    """
    spec = experiment.resources
    cpus, gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    if spec.cpus_per_client > cpus:
        raise SpecError(f"resources.cpus_per_client is {spec.cpus_per_client:g}, but the cluster has {cpus:g} cores.")
    if spec.gpus_per_client > gpus:
        raise SpecError(f"resources.gpus_per_client is {spec.gpus_per_client:g}, but the cluster has {gpus:g} GPUs.")
    cohort = experiment.training.cohort_size(clients)
    fitting_cpus = max(1, _fitting(nodes or [cluster], "CPU", spec.cpus_per_client))
    fitting_gpus = max(1, _fitting(nodes or [cluster], "GPU", spec.gpus_per_client)) if spec.gpus_per_client else cohort
    if spec.clients_per_actor != "auto":
        actors = min(math.ceil(clients / spec.clients_per_actor), fitting_gpus)
    else:
        actors = min(cohort, fitting_gpus, cohort if spec.gpus_per_client else fitting_cpus)
    share = min(spec.cpus_per_client, math.floor(1000 * cpus / actors) / 1000)
    while _fitting(nodes or [cluster], "CPU", share) < actors:
        share = math.floor(950 * share) / 1000
    return Plan(actors, share, spec.gpus_per_client, min(actors, fitting_cpus))


def _fitting(nodes: Sequence[Mapping[str, float]], kind: str, amount: float) -> int:
    """The number of actors that fit if each needs an amount of one resource on a single node."""
    return sum(int(node.get(kind, 0) / amount + 1e-9) for node in nodes)


def portion(
    sizes: Mapping[Experiment, int], cluster: Mapping[str, float], most: int
) -> tuple[int, Mapping[str, float]]:
    """Return the number of trials that run at once, at most `most`, and the resources that each of them may use.

    `sizes` is the number of clients of each experiment. Unlike clients, trials do not wait for one another: so on
    CPUs a trial gets the cores of a single client, as long as there are enough trials. On GPUs it gets the GPU share
    of its whole cohort, and at least the cores of one client.
    """
    at_once = most
    for experiment, clients in sizes.items():
        plan, spec = plan_actors(experiment, clients, cluster), experiment.resources
        fitting = cluster.get("CPU", 0) / spec.cpus_per_client
        if spec.gpus_per_client:
            fitting = min(fitting, cluster.get("GPU", 0) / (plan.actors * spec.gpus_per_client))
        at_once = max(1, min(at_once, int(fitting + 1e-9)))
    return at_once, {kind: cluster.get(kind, 0) / at_once for kind in ("CPU", "GPU")}
