"""The backend that a spec names."""

from fedray.backends.base import MakeBackend
from fedray.config.experiment import Experiment


def backend_of(experiment: Experiment) -> MakeBackend:
    """Return the class of the backend that `resources.backend` names. The other one is not imported."""
    if experiment.resources.backend == "serial":
        from fedray.backends.serial import SerialBackend

        return SerialBackend
    from fedray.backends.ray.actors import RayBackend

    return RayBackend
