"""The server's part of a round: the broadcast, and the update of the global model."""

from collections.abc import Sequence

from fedray.aggregation.messages import Aggregate
from fedray.backends.base import Backend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.models.weights import nbytes
from fedray.server.public_training import train_on_public
from fedray.strategies.base import RoundInfo
from fedray.types import ArrayGroups, ClientUpdate, ParameterInfo, ServerState
from fedray.workers.requests import Initialize, Shared


def broadcast(experiment: Experiment, state: ServerState) -> ArrayGroups:
    """Return the arrays that are sent to the clients: the global `weights` and the strategy's own groups."""
    return {"weights": state.weights, **experiment.strategy.broadcast(state)}


def initial_broadcast(experiment: Experiment, backend: Backend) -> Shared[ArrayGroups]:
    """Share the broadcast of round 1 with the workers of a backend that has no run."""
    (initial,) = backend.collect([Initialize()])
    extra = experiment.strategy.server_init(initial.weights, initial.parameters)
    return backend.share(broadcast(experiment, ServerState(0, initial.weights, extra)))


def broadcast_bytes(experiment: Experiment, state: ServerState, parameters: Sequence[ParameterInfo]) -> int:
    """Return the bytes that each client receives: the shared weights and the strategy's own groups."""
    strategy = experiment.strategy
    shared = {info.name: state.weights[info.name] for info in parameters if strategy.is_shared(info)}
    return nbytes({"weights": shared, **strategy.broadcast(state)})


def round_info(
    number: int, updates: Sequence[ClientUpdate], data: FederatedDataset, parameters: Sequence[ParameterInfo]
) -> RoundInfo:
    """Describe the clients of a round, whose `updates` were aggregated, to the strategy's server side."""
    return RoundInfo(
        round=number,
        clients=sum(len(shard) > 0 for shard in data.shards),
        contributors=[update.client for update in updates],
        examples={update.client: update.examples for update in updates},
        steps={update.client: update.steps for update in updates},
        parameters=parameters,
    )


def server_step(
    experiment: Experiment, backend: Backend, old: ServerState, aggregate: Aggregate, info: RoundInfo
) -> tuple[ServerState, float]:
    """Return the state after a round, and the seconds of the server's own training.

    The strategy's target is trained in its server phase, if there is one, on a worker. Then the server optimizer steps
    towards it, and the extra state is computed.
    """
    target = experiment.strategy.server_target(old, aggregate, info)
    trained = train_on_public(experiment, backend, old, aggregate, target)
    weights, moments = experiment.server.step(old.weights, trained.weights, old.moments, info.trained_names)
    extra = experiment.strategy.server_extra(old, aggregate, info)
    return ServerState(info.round, weights, extra, moments), trained.seconds
