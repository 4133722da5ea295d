"""Fields of `training` that count steps, and their combinations."""

import numpy as np
import pytest
import torch

from fedray.config.loader import parse_experiment
from fedray.errors import SpecError
from fedray.training.batches import split_batches
from fedray.training.sections import SGD, Training


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("steps", [None, 1, 3, 7, 20])
@pytest.mark.parametrize("examples", [1, 2, 3, 4, 5, 9, 16, 17])
def test_counts_are_those_of_the_batches(batch_size: int, steps: int | None, examples: int) -> None:
    """Pass through the examples until the steps are done, and count what was seen."""
    limits = {"local_epochs": 2} if steps is None else {"local_steps": steps}
    training = Training.model_validate({"batch_size": batch_size, **limits})
    sizes = [len(batch) for batch in split_batches(torch.arange(examples), batch_size)]
    taken = sizes * 2 if steps is None else [sizes[i % len(sizes)] for i in range(steps)]
    assert training.steps_per_epoch(examples) == len(sizes)
    assert training.steps(examples) == len(taken)
    assert training.trained_examples(examples) == sum(taken)
    epochs = int(np.ceil(len(taken) / len(sizes)))
    assert training.epochs(1, examples) == range(epochs)
    assert training.epochs(3, examples) == range(2 * epochs, 3 * epochs)


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"local_steps": 5, "local_epochs": 1}, "must have either local_epochs or local_steps; set the other"),
        ({"local_epochs": None}, "must have either local_epochs or local_steps"),
        ({"local_steps": 0}, "training.local_steps is 0, but must be at least 1."),
        ({"clip_norm": 0}, "training.clip_norm is 0, but must be above 0."),
        ({"optimizer": {"name": "adm"}}, "is 'adm', but must be one of sgd, adam, adamw; did you mean 'adam'?"),
        ({"optimizer": {"nesterov": True, "momentum": 0}}, "must have momentum above 0 with nesterov: true."),
        ({"optimizer": {"name": "adam", "momentum": 0.5}}, "unknown field 'training.optimizer.momentum'"),
        ({"optimizer": {"name": "adam", "betas": [0.9, 1]}}, "training.optimizer.betas.1 is 1, but must be"),
        ({"schedule": {"name": "step"}}, "'training.schedule.every' is missing."),
        ({"schedule": {"name": "cosine", "warm_up": 10}}, "warm_up must be below training.rounds, which is 10."),
        ({"lr": 0.1}, "unknown field 'training.lr'; it is now training.optimizer.lr."),
        ({"decay_every": 5}, "'training.decay_every'; it is now training.schedule: {name: step, every: ROUNDS}."),
    ],
)
def test_invalid_training_is_one_sentence(training: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_experiment({"training": training}, "here")
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_local_steps_replace_the_default_epoch() -> None:
    training = parse_experiment({"training": {"local_steps": 5}}, "here").training
    assert (training.local_epochs, training.local_steps) == (None, 5)
    assert Training.model_validate(training.model_dump(mode="json")) == training


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_weights_of_all_gradients_are_the_way_along_a_constant_gradient(
    steps: int, momentum: float, nesterov: bool
) -> None:
    way, velocity = 0.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        way += 1 + momentum * velocity if nesterov else velocity
    section = SGD(momentum=momentum, nesterov=nesterov)
    assert section.gradient_weight(steps) == pytest.approx(way, rel=1e-12)
    assert SGD(momentum=0).gradient_weight(steps) == steps
