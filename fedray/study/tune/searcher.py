"""Which trial comes next: from the file's own list, or as Optuna proposes."""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ray.tune.search import Searcher

from fedray.config.space import Assignment, Axis, zip_row
from fedray.errors import SpecError
from fedray.study.study import Study, last_metrics
from fedray.types import Row

ATTEMPTS = 100
"""How often Optuna may propose what there is already, before the space counts as searched."""


class FixedSearcher(Searcher):
    """One known trial after another."""

    def __init__(self, configs: Iterable[Row]) -> None:
        super().__init__()
        self._left = deque(configs)
        self.left = len(self._left)

    def suggest(self, trial_id: str) -> Any:
        """Tune's: the next trial's config."""
        return self._left.popleft() if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Tune's; nothing is learnt."""

    def save(self, checkpoint_path: str) -> None:
        """Tune's; nothing to keep: what is left is known from the folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Tune's."""


class OptunaSearcher(FixedSearcher):
    """Tune's Optuna searcher, told of every trial that an earlier sweep has finished, over axes of any kind.

    Optuna knows numbers and names. So an axis of values (a section, a list) is one of their texts as JSON,
    and zipped axes are one axis of rows.
    """

    def __init__(self, study: Study) -> None:
        super().__init__(())
        self._study, axes = study, study.space.axes
        points = [(trial, _texts(axes, trial.choice)) for trial in study.kept()]
        begun = [texts for trial, texts in points if study.left(trial)]
        ended = [(texts, last_metrics(trial.history())) for trial, texts in points if not study.left(trial)]
        self._inner = _optuna(study, begun, len(ended))
        for texts, figures in ended:
            value = figures[study.space.search.metric]
            self._inner.add_evaluated_point(texts, value, error=value != value)  # NaN is not itself
        self._taken = {trial.name for trial, _ in points if not study.left(trial)}
        self._asked: dict[str, str] = {}
        self.left = max(len(begun), study.space.search.samples - len(ended))

    def suggest(self, trial_id: str) -> Any:
        """Tune's: the next trial's config; none where Optuna only repeats itself."""
        for attempt in range(ATTEMPTS):
            asked = self._asked[trial_id] = f"{trial_id}-{attempt}"
            choice = _choice(self._study.space.axes, self._inner.suggest(asked))
            trial = self._study.trial(choice)
            if trial.name not in self._taken:
                self._taken.add(trial.name)
                return self._study.config(trial)
            self._inner.on_trial_complete(asked)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Tune's: what came of it."""
        self._inner.on_trial_complete(self._asked[trial_id], result, error)


def _optuna(study: Study, first: list[dict[str, Any]], known: int) -> Any:
    """`known`: how much it will be told. It draws otherwise then, or a sweep that goes on would repeat itself."""
    if find_spec("optuna") is None:
        raise SpecError("search.algorithm is optuna, which is not installed: pip install 'fedray[optuna]'.")
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = study.space.search
    space = _distributions(study.space.axes)
    return OptunaSearch(space, search.metric, search.direction, points_to_evaluate=first, seed=study.space.seed + known)


def _distributions(axes: Iterable[Axis]) -> dict[str, Any]:
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    def of(axis: Axis) -> BaseDistribution:
        if axis.kind in ("uniform", "loguniform"):
            return FloatDistribution(axis.values[0], axis.values[1], log=axis.kind == "loguniform")
        if axis.kind == "randint":
            return IntDistribution(axis.values[0], axis.values[1])
        return CategoricalDistribution([json.dumps(value) for value in axis.values])

    found = {axis.field: of(axis) for axis in axes if axis.kind != "zip"}
    rows = max((len(axis.values) for axis in axes if axis.kind == "zip"), default=0)
    return found | ({"zip": CategoricalDistribution([str(row) for row in range(rows)])} if rows else {})


def _choice(axes: Iterable[Axis], texts: Mapping[str, Any]) -> Assignment:
    """Optuna's point as one value for each axis."""

    def value(axis: Axis) -> Any:
        if axis.kind == "zip":
            return axis.values[int(texts["zip"])]
        return json.loads(texts[axis.field]) if isinstance(texts[axis.field], str) else texts[axis.field]

    return {axis.field: value(axis) for axis in axes}


def _texts(axes: Sequence[Axis], choice: Assignment) -> dict[str, Any]:
    """One value for each axis as Optuna's point."""
    texts: dict[str, Any] = {}
    for axis in axes:
        value = choice.get(axis.field, axis.values[0])  # an axis that did not apply
        if axis.kind == "zip":
            texts["zip"] = str(zip_row(axes, choice))
        elif axis.kind in ("uniform", "loguniform", "randint"):
            texts[axis.field] = value
        else:
            texts[axis.field] = json.dumps(axis.values[axis.values.index(value)])  # 1 may be 1.0 in the file now
    return texts
