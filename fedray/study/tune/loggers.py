"""Tune's loggers by their names in a spec."""

import importlib
from importlib.util import find_spec

from ray import tune

from fedray.errors import SpecError

LOGGERS = {
    "tensorboard": ("tensorboardX", "ray.tune.logger", "TBXLoggerCallback"),
    "mlflow": ("mlflow", "ray.air.integrations.mlflow", "MLflowLoggerCallback"),
    "wandb": ("wandb", "ray.air.integrations.wandb", "WandbLoggerCallback"),
}
"""The package that a logger needs, and the module and class of Tune's callback."""


def logger(name: str, study: str) -> tune.Callback:
    """Return Tune's logger callback. Raises SpecError if its package is not installed."""
    options = {"tensorboard": {}, "mlflow": {"experiment_name": study}, "wandb": {"project": study}}[name]
    package, module, kind = LOGGERS[name]
    if find_spec(package) is None:
        raise SpecError(f"search.log_to names {name}, which is not installed: pip install {package}.")
    callback: tune.Callback = vars(importlib.import_module(module))[kind](**options)
    return callback
