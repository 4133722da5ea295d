"""The check before training: the smallest batch of all clients goes through the model once."""

from collections.abc import Sequence
from contextlib import suppress

from fedray.backends.base import Backend, CallResult
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import LostError, SpecError
from fedray.server.cohort import draw_cohort
from fedray.types import ArrayGroups, ImageShape, Indices
from fedray.workers.requests import Shared, TryBatch


def check_smallest_batch(
    experiment: Experiment,
    data: FederatedDataset,
    backend: Backend,
    broadcast: Shared[ArrayGroups],
    shape: ImageShape | None = None,
) -> tuple[str, ...]:
    """Raises SpecError if the smallest batch that a client will train on cannot be trained on.

    With `failures: drop`, return that sentence as a warning instead, unless the largest client's batch fails as well.
    `shape` is that of the proxy's inputs if they are not images.
    """

    def problem_of(client: int) -> str:
        return _problem(TryBatch(client, sizes[client], broadcast, shape), backend)

    sizes = smallest_batches(experiment, data.shards)
    problem = problem_of(min(sizes, key=sizes.__getitem__))
    if problem and experiment.training.participation < 1:  # clients that are never drawn cannot fail
        sizes = {client: sizes[client] for client in _drawn(experiment, data.shards)}
        problem = problem_of(min(sizes, key=sizes.__getitem__))
    if not problem:
        return ()
    if experiment.training.failures == "abort" or problem_of(max(sizes, key=sizes.__getitem__)):
        raise SpecError(problem)
    return (f"a client will fail, and its update be dropped: {problem}",)


def smallest_batches(experiment: Experiment, shards: Sequence[Indices]) -> dict[int, int]:
    """Return the number of examples in the smallest batch of each client that has examples."""
    return {
        client: _smallest_batch(len(shard), experiment.training.batch_size)
        for client, shard in enumerate(shards)
        if len(shard)
    }


def _smallest_batch(examples: int, batch_size: int) -> int:
    """A last batch of one example is merged into the one before it, unless batches have one example anyway."""
    rest = examples % batch_size
    if examples <= batch_size or rest == 0:
        return min(examples, batch_size)
    if rest > 1:
        return rest
    return batch_size if examples > 2 * batch_size else batch_size + 1


def _drawn(experiment: Experiment, shards: Sequence[Indices]) -> list[int]:
    """Return the clients that are drawn in any round."""
    rounds = range(1, experiment.training.rounds + 1)
    return sorted({client for number in rounds for client in draw_cohort(experiment, shards, number)})


def _problem(request: TryBatch, backend: Backend) -> str:
    """Return the reason why a batch fails; empty if it does not fail, or if the worker or the weights are lost."""
    with suppress(LostError):  # round 1 is retried
        for result in backend.run([request]):
            return result.value if isinstance(result, CallResult) else ""
    return ""
