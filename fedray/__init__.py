"""fedray: federated learning with foundation-model distillation, on Ray.

for result in fedray.run(experiment, "results/mine"): ...
fedray.sweep(fedray.Study(fedray.read("space.yaml"), "results"))
fedray.load_results("results/mine").rounds
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedray.config import Experiment
    from fedray.errors import RunError, SpecError
    from fedray.results import load_results
    from fedray.runner import run
    from fedray.spec_file import load, read
    from fedray.study import Study
    from fedray.tuning.sweep import sweep

__all__ = ["Experiment", "RunError", "SpecError", "Study", "load", "load_results", "read", "run", "sweep"]

_HOMES = {
    "RunError": "fedray.errors",
    "Experiment": "fedray.config",
    "SpecError": "fedray.errors",
    "Study": "fedray.study",
    "load": "fedray.spec_file",
    "read": "fedray.spec_file",
    "sweep": "fedray.tuning.sweep",
    "load_results": "fedray.results",
    "run": "fedray.runner",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `fedray --help` and every worker start without what they do not need."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedray' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
