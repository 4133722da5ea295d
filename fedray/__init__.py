"""fedray: federated learning with foundation-model distillation, on Ray.

for result in fedray.run(experiment, "results/mine"): ...
fedray.sweep(fedray.Study(fedray.read("space.yaml"), "results"))
fedray.load_results("results/mine").rounds
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedray.config.experiment import Experiment
    from fedray.config.loader import load, read
    from fedray.errors import RunError, SpecError
    from fedray.results.loader import load_results
    from fedray.study.session import run
    from fedray.study.study import Study
    from fedray.study.tune.sweep import sweep

__all__ = ["Experiment", "RunError", "SpecError", "Study", "load", "load_results", "read", "run", "sweep"]

_HOMES = {
    "RunError": "fedray.errors",
    "Experiment": "fedray.config.experiment",
    "SpecError": "fedray.errors",
    "Study": "fedray.study.study",
    "load": "fedray.config.loader",
    "read": "fedray.config.loader",
    "sweep": "fedray.study.tune.sweep",
    "load_results": "fedray.results.loader",
    "run": "fedray.study.session",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `fedray --help` and every worker start without what they do not need."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedray' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
