"""The foundation model's term of each run: Fed-LPFM has it, and any other strategy may add it."""

import pandas as pd

from fedray.losses.teacher_term import TeacherTerm
from fedray.strategies import STRATEGIES

SUFFIX = " + KD"
"""End of the label of an algorithm to which the term is added."""
WEIGHT, ADDED_WEIGHT = "strategy.lam", "strategy.distillation.lam"
OTHERS = [name for name, strategy in STRATEGIES.items() if not issubclass(strategy, TeacherTerm)]
"""Built-in strategies whose own fields do not describe the term; their `lam` is the weight of another one."""


def teacher_weight(runs: pd.DataFrame) -> "pd.Series[float]":
    """Return λ of the foundation model's term for each run; NaN for a run without the term."""
    own = _numbers(runs, WEIGHT).where(~runs["strategy.name"].isin(OTHERS))
    return _numbers(runs, ADDED_WEIGHT).fillna(own)


def is_added(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Return whether each run's strategy adds the term (`strategy.distillation`)."""
    return _numbers(runs, ADDED_WEIGHT).notna()


def base_algorithm(algorithm: str) -> str:
    """Return the label of the algorithm without the foundation model's term: that of Fed-LPFM is FedAvg."""
    own = [strategy.label for strategy in STRATEGIES.values() if issubclass(strategy, TeacherTerm)]
    return "FedAvg" if algorithm in own else algorithm.removesuffix(SUFFIX)


def _numbers(runs: pd.DataFrame, field: str) -> "pd.Series[float]":
    missing = pd.Series(float("nan"), index=runs.index)
    return pd.to_numeric(runs.get(field, missing), errors="coerce").astype(float)
