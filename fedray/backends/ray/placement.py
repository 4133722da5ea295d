"""How many actors there are, what each reserves, and how many work at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedray.config.experiment import Experiment
from fedray.errors import SpecError
from fedray.seeding import numpy_rng
from fedray.types import Indices


@dataclass(frozen=True)
class Plan:
    actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    at_once: int


def plan_actors(
    experiment: Experiment, clients: int, cluster: Mapping[str, float], nodes: Sequence[Mapping[str, float]] = ()
) -> Plan:
    """Actors for `clients` on a cluster with so many `CPU` and `GPU`; on `nodes`, where an actor is on one of them.

    A fraction of a GPU is never overbooked; where more actors are asked for than there are cores,
    each reserves less than its share and they take turns. Raises SpecError where not even one
    client fits.
    """
    spec = experiment.resources
    cpus, gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    if spec.cpus_per_client > cpus:
        raise SpecError(f"resources.cpus_per_client is {spec.cpus_per_client:g}, but the cluster has {cpus:g} cores.")
    if spec.gpus_per_client > gpus:
        raise SpecError(f"resources.gpus_per_client is {spec.gpus_per_client:g}, but the cluster has {gpus:g} GPUs.")
    cohort = cohort_size(clients, experiment.training.participation)
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


def _fitting(nodes: Sequence[Mapping[str, float]], kind: str, each: float) -> int:
    """How many that need `each` there is room for: nobody is on two nodes."""
    return sum(int(node.get(kind, 0) / each + 1e-9) for node in nodes)


def portion(
    sizes: Mapping[Experiment, int], cluster: Mapping[str, float], most: int
) -> tuple[int, Mapping[str, float]]:
    """How many trials run at once, at most `most`, and the part of the cluster that each may use.

    `sizes` are the experiments and how many clients each has. Trials do not wait for one another as
    clients do, so on CPUs each takes a core for one client as long as there are enough trials; on GPUs
    each takes what all clients of its cohort need, and at least a core for one of them.
    """
    at_once = most
    for experiment, clients in sizes.items():
        plan, spec = plan_actors(experiment, clients, cluster), experiment.resources
        room = cluster.get("CPU", 0) / spec.cpus_per_client
        if spec.gpus_per_client:
            room = min(room, cluster.get("GPU", 0) / (plan.actors * spec.gpus_per_client))
        at_once = max(1, min(at_once, int(room + 1e-9)))
    return at_once, {kind: cluster.get(kind, 0) / at_once for kind in ("CPU", "GPU")}


def cohort_size(clients: int, participation: float) -> int:
    """How many clients a round draws: the nearest whole number, at least one."""
    return max(1, round(participation * clients))


def draw_cohort(experiment: Experiment, shards: Sequence[Indices], number: int) -> list[int]:
    """The cohort of a round, drawn for (seed, round) among the clients that hold examples."""
    holders = [client for client, shard in enumerate(shards) if len(shard)]
    size = cohort_size(len(holders), experiment.training.participation)
    return sorted(numpy_rng(experiment.seed, "cohort", number).choice(holders, size, replace=False).tolist())
