"""fedray: federated learning with foundation-model distillation, on Ray.

for result in fedray.run(experiment, "results/mine"): ...
fedray.sweep(fedray.Study(fedray.read("space.yaml"), "results"))
fedray.load_results("results/mine").rounds
"""

import importlib
from typing import TYPE_CHECKING

from fedray.import_path import move_job_folders_last

if TYPE_CHECKING:
    from fedray.config.experiment import Experiment
    from fedray.config.loader import load, read
    from fedray.errors import RunError, SpecError
    from fedray.results.loader import load_results
    from fedray.study.session import run
    from fedray.study.study import Study
    from fedray.study.tune.sweep import sweep

__all__ = ["Experiment", "RunError", "SpecError", "Study", "load", "load_results", "read", "run", "sweep"]

move_job_folders_last()

_MODULES = {
    "Experiment": "fedray.config.experiment",
    "RunError": "fedray.errors",
    "SpecError": "fedray.errors",
    "Study": "fedray.study.study",
    "load": "fedray.config.loader",
    "load_results": "fedray.results.loader",
    "read": "fedray.config.loader",
    "run": "fedray.study.session",
    "sweep": "fedray.study.tune.sweep",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `fedray --help` and workers import only the modules they need."""
    if name not in _MODULES:
        raise AttributeError(f"module 'fedray' has no attribute '{name}'")
    return vars(importlib.import_module(_MODULES[name]))[name]
