"""The phases of one client's training in a round, ready to run."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fedray.config.experiment import Experiment
from fedray.training.batches import ClientData
from fedray.training.local_update import Trainer, local_update
from fedray.training.phases import PhaseData
from fedray.types import ParameterInfo
from fedray.workers.requests import ClientTask


@dataclass(frozen=True)
class PreparedPhase:
    """A phase of a client."""

    train: Callable[[], dict[str, float]]
    """Runs the phase and returns its metrics."""
    examples: int
    """Number of examples of all its steps."""
    frozen: Collection[str]
    """Names of the proxy's parameters that are not trained."""


def prepare_phases(
    experiment: Experiment,
    task: ClientTask,
    trainers: Sequence[Trainer],
    data: Mapping[PhaseData, ClientData],
    parameters: Sequence[ParameterInfo],
) -> Iterator[PreparedPhase]:
    """Yield the phases of a client in order; `parameters` describes the arrays of the proxy.

    Epochs are numbered over all rounds, and all phases on the same kind of data. Random streams for public images have
    a negative id in place of the client's, because their epochs have the same numbers as those of own examples.
    """
    strategy, training, streams = (
        experiment.strategy,
        experiment.training,
        {"own": task.client, "public": _public(task)},
    )
    next_epochs = {
        kind: strategy.round_epochs(training, task.round, len(part), kind).start for kind, part in data.items()
    }
    for phase, trainer in zip(strategy.phases(), trainers, strict=True):
        part, first, client = data[phase.data], next_epochs[phase.data], streams[phase.data]
        frozen = {info.name for info in parameters if not info.is_buffer and not phase.trainable(info)}
        train = partial(
            local_update, trainer, part, number=task.round, seed=experiment.seed, client=client, first_epoch=first
        )
        yield PreparedPhase(train, trainer.training.trained_examples(len(part)), frozen)
        next_epochs[phase.data] += trainer.training.epoch_count(len(part))


def _public(task: ClientTask) -> int:
    """The id of a client in random streams for public images; -1 is a teacher's, -2 the server's."""
    return -3 - task.client


def merge_metrics(parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Merge the metrics of phases, each with its number of examples.

    Losses are means over the examples of the phases that have them, `train_accuracy` is that of the last phase.
    """
    if len(parts) == 1:
        return dict(parts[0][1])
    totals, examples = defaultdict[str, float](float), Counter[str]()
    for count, metrics in parts:
        for name, value in metrics.items():
            totals[name] += value * count
            examples[name] += count
    means = {name: total / examples[name] for name, total in totals.items()}
    return means | {"train_accuracy": parts[-1][1]["train_accuracy"]}
