"""The server's own training in a round, on one worker and the public split."""

from fedray.aggregation.exact_mean import cast_like
from fedray.aggregation.messages import Aggregate
from fedray.backends.base import Backend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import SpecError
from fedray.types import ServerState, ServerTraining, Weights
from fedray.workers.requests import TrainServer


def check_public_split(experiment: Experiment, data: FederatedDataset) -> None:
    """Raise SpecError if the strategy uses public images and there are not at least two, which a step needs."""
    if experiment.strategy.needs_public_data and len(data.public) < 2:
        raise SpecError(
            f"data.public_fraction is {experiment.data.public_fraction}, which leaves {len(data.public)} "
            f"of {len(data.train)} training images public; strategy.name '{experiment.strategy.name}' needs at least 2."
        )


def train_on_public(
    experiment: Experiment, backend: Backend, old: ServerState, aggregate: Aggregate, target: Weights
) -> ServerTraining:
    """Train a target in the strategy's server phase; without one, return it unchanged.

    Raises RunError where training fails, LostError where the target was lost with its node.
    """
    if experiment.strategy.server_phase() is None:
        return ServerTraining(target, 0.0)
    targets = experiment.strategy.public_targets(aggregate)
    inputs = backend.share({"weights": cast_like(target, old.weights), "public_targets": targets})
    (trained,) = backend.collect([TrainServer(old.round + 1, inputs)])
    return trained
