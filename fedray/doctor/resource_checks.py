"""Checks that the actors of a spec fit on the cluster, in total and in its free resources."""

from collections.abc import Iterator, Mapping

from fedray.backends.ray.placement import Plan, plan_actors, portion
from fedray.config.experiment import Experiment
from fedray.doctor.finding import Finding, count
from fedray.doctor.report import ClusterReport, Node
from fedray.doctor.requirements import Requirements
from fedray.errors import SpecError

MIN_RESOURCE = 0.01
"""Cores or GPUs below which a difference is rounding."""


def plan_trials(requirements: Requirements, total: Mapping[str, float]) -> tuple[int, dict[Experiment, Plan]]:
    """Return how many trials run at once, and the actors of each. Raises SpecError if one does not fit."""
    at_once, share = (
        portion(requirements.clients, total, requirements.max_trials) if requirements.is_study else (1, total)
    )
    return at_once, {spec: plan_actors(spec, clients, share) for spec, clients in requirements.clients.items()}


def describe_actor(plan: Plan) -> str:
    """Return the resources of an actor: `1 core`, `2 cores and 0.5 GPU`."""
    gpus = f" and {plan.gpus_per_actor:g} GPU" if plan.gpus_per_actor else ""
    return f"{count(plan.cpus_per_actor, 'core')}{gpus}"


def capacity(report: ClusterReport) -> Iterator[Finding]:
    """Yield plans whose actors do not fit on the nodes."""
    if report.requirements is None:
        return
    try:
        plans = plan_trials(report.requirements, report.total)[1]
    except SpecError as error:
        yield Finding(f"{str(error).rstrip('.')}: request less, or add nodes.")
        return
    for plan in set(plans.values()):
        fitting = _count_actors(report.alive, plan)
        if fitting < plan.actors:
            yield Finding(
                f"the plan is for {count(plan.actors, 'actor')} of {describe_actor(plan)}, but the nodes can hold "
                f"{fitting}, because an actor runs on one node, and its share of a GPU is on one GPU: request less "
                "per client.",
                is_error=fitting == 0,
            )


def other_jobs(report: ClusterReport) -> Iterator[Finding]:
    """Yield a finding if resources of other jobs delay the start of actors."""
    held = _held_resources(report)
    if not held:
        return
    if report.requirements is None:
        yield Finding(f"other jobs hold {held}: actors that need more than the rest wait for them.", is_error=False)
        return
    try:
        at_once, plans = plan_trials(report.requirements, report.total)
    except SpecError:
        return
    plan = max(plans.values(), key=lambda plan: plan.actors)
    startable, actors = _count_actors(report.alive, plan, free_only=True), plan.actors * at_once
    if startable < actors:
        yield Finding(
            f"other jobs hold {held}: {startable} of {count(actors, 'actor')} can start now, the others when those "
            "jobs end.",
            is_error=False,
        )


def _held_resources(report: ClusterReport) -> str:
    """Return `4 of 8 cores and 1 of 2 GPUs`; empty if all are free."""
    cores = sum(node.cores - node.free_cores for node in report.alive)
    gpus = sum(node.gpus - node.free_gpus for node in report.alive)
    parts = [f"{cores:g} of {report.total['CPU']:g} cores"] if cores >= MIN_RESOURCE else []
    parts += [f"{gpus:g} of {report.total['GPU']:g} GPUs"] if gpus >= MIN_RESOURCE else []
    return " and ".join(parts)


def _count_actors(nodes: list[Node], plan: Plan, *, free_only: bool = False) -> int:
    return sum(node.count_actors(plan.cpus_per_actor, plan.gpus_per_actor, free_only=free_only) for node in nodes)
