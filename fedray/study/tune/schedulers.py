"""Tune's schedulers by their names in a spec. Their unit of time is the round."""

from collections.abc import Callable, Mapping

from ray.tune import schedulers
from ray.tune.schedulers import TrialScheduler

from fedray.config.search import Search
from fedray.types import Row


def scheduler(search: Search, rounds: int) -> TrialScheduler:
    """Return the scheduler of a search. `rounds` is the length of a trial that is not stopped early."""
    return SCHEDULERS[search.scheduler](search, rounds)


def _asha(search: Search, rounds: int) -> TrialScheduler:
    grace = min(search.grace, rounds)
    return schedulers.ASHAScheduler("round", max_t=rounds, grace_period=grace, reduction_factor=search.reduction)


def _median(search: Search, _: int) -> TrialScheduler:
    return schedulers.MedianStoppingRule("round", grace_period=search.grace)


def _pbt(search: Search, _: int) -> TrialScheduler:
    mutations: Row = {field: list(values) for field, values in (search.mutations or {}).items()}
    return schedulers.PopulationBasedTraining(
        "round", perturbation_interval=search.grace, hyperparam_mutations=mutations
    )


SCHEDULERS: Mapping[str, Callable[[Search, int], TrialScheduler]] = {
    "none": lambda *_: schedulers.FIFOScheduler(),  # type: ignore[no-untyped-call]
    "asha": _asha,
    "median": _median,
    "pbt": _pbt,
}
