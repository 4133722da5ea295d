"""The next trial of a sweep: from the list of the space, or proposed by Optuna."""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from fedray.config.space import Assignment, Axis, zip_row
from fedray.config.values import distinct, same_value
from fedray.errors import SpecError
from fedray.study.study import Study, last_metrics
from fedray.types import Row

if TYPE_CHECKING:
    from ray.tune.search.optuna import OptunaSearch

MAX_REPEATED_PROPOSALS = 100
"""Proposals of existing trials in a row after which the space counts as searched."""


class FixedSearcher(Searcher):
    """Return the given configs one after another. `count` is their number."""

    def __init__(self, configs: Iterable[Row]) -> None:
        super().__init__()
        self._configs = deque(configs)
        self.count = len(self._configs)

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config. Called by Tune."""
        return self._configs.popleft() if self._configs else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Row | None = None, error: bool = False) -> None:
        """Do nothing: the list does not depend on results. Called by Tune."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the trials' folders hold the state. Called by Tune."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, see `save`. Called by Tune."""


class OptunaSearcher(FixedSearcher):
    """Tune's Optuna searcher over axes of any kind. It starts from all trials that earlier sweeps finished.

    Optuna takes numbers and categories. So the values of an axis that is not numeric become JSON texts,
    and zipped axes become one axis of row numbers.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(())
        self._study, axes = study, study.space.axes
        points = [(trial, _to_optuna(axes, trial.assignment)) for trial in study.existing_trials()]
        pending = [point for trial, point in points if study.is_pending(trial)]
        ended = [(point, last_metrics(trial.history())) for trial, point in points if not study.is_pending(trial)]
        self._inner = _optuna(study, pending, len(ended))
        for point, metrics in ended:
            value = metrics[study.space.search.metric]
            self._inner.add_evaluated_point(point, value, error=value != value)  # NaN differs from itself
        self._proposed = {trial.name for trial, _ in points if not study.is_pending(trial)}
        self._inner_ids: dict[str, str] = {}
        self.count = max(len(pending), study.space.search.samples - len(ended))

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config, or FINISHED if Optuna proposes only existing trials. Called by Tune."""
        for attempt in range(MAX_REPEATED_PROPOSALS):
            inner_id = self._inner_ids[trial_id] = f"{trial_id}-{attempt}"
            point = self._inner.suggest(inner_id)
            assert point is not None, "only a searcher with a limit of its own returns None"
            assignment = _from_optuna(self._study.space.axes, point)
            trial = self._study.trial(assignment)
            if trial.name not in self._proposed:
                self._proposed.add(trial.name)
                return self._study.tune_config(trial)
            self._inner.on_trial_complete(inner_id)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Row | None = None, error: bool = False) -> None:
        """Pass the result to Optuna. Called by Tune."""
        self._inner.on_trial_complete(self._inner_ids[trial_id], result, error)


def _optuna(study: Study, first: list[Row], evaluated: int) -> "OptunaSearch":
    """Return Tune's Optuna searcher.

    `evaluated`, the number of finished trials, goes into its seed: otherwise a resumed sweep would repeat proposals.
    """
    if find_spec("optuna") is None:
        raise SpecError("search.algorithm is optuna, which is not installed: pip install 'fedray[optuna]'.")
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = study.space.search
    space, seed = _distributions(study.space.axes), study.space.seed + evaluated
    return OptunaSearch(space, search.metric, search.direction, points_to_evaluate=first, seed=seed)


def _distributions(axes: Iterable[Axis]) -> Row:
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    def distribution(axis: Axis) -> BaseDistribution:
        if axis.kind in ("uniform", "loguniform"):
            return FloatDistribution(axis.values[0], axis.values[1], log=axis.kind == "loguniform")
        if axis.kind == "randint":
            return IntDistribution(axis.values[0], axis.values[1])
        return CategoricalDistribution([json.dumps(value) for value in distinct(axis.values)])

    found = {axis.field: distribution(axis) for axis in axes if axis.kind != "zip"}
    rows = max((len(axis.values) for axis in axes if axis.kind == "zip"), default=0)
    return found | ({"zip": CategoricalDistribution([str(row) for row in range(rows)])} if rows else {})


def _from_optuna(axes: Iterable[Axis], point: Row) -> Assignment:
    """Return one value per axis from Optuna's point."""

    def value(axis: Axis) -> object:
        if axis.kind == "zip":
            return axis.values[int(point["zip"])]
        return json.loads(point[axis.field]) if isinstance(point[axis.field], str) else point[axis.field]

    return {axis.field: value(axis) for axis in axes}


def _to_optuna(axes: Sequence[Axis], assignment: Assignment) -> Row:
    """Return Optuna's point from one value per axis."""
    point: Row = {}
    for axis in axes:
        value = assignment.get(axis.field, axis.values[0])  # the first value for an axis that was not active
        if axis.kind == "zip":
            point["zip"] = str(zip_row(axes, assignment))
        elif axis.kind in ("uniform", "loguniform", "randint"):
            point[axis.field] = value
        else:
            point[axis.field] = json.dumps(
                next(own for own in axis.values if same_value(own, value))
            )  # 1 may be 1.0 now
    return point
