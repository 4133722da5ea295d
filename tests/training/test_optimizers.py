"""Local optimizers, clipping and local steps against softmax regression in NumPy, float64."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.client_data import CLASSES, N, make_client_data
from torch import nn

from fedray.seeding import numpy_rng
from fedray.training.local_update import Trainer, local_update
from fedray.training.sections import Training
from fedray.types import LossTerm

Array = npt.NDArray[np.float64]
PIXELS, BATCH, SEED, CLIENT = 36, 5, 7, 3
DECAY = 0.1
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": DECAY},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": DECAY},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": DECAY, "nesterov": True},
    {"name": "adam", "lr": 0.02, "betas": [0.8, 0.95], "eps": 1e-3, "weight_decay": DECAY},
    {"name": "adamw", "lr": 0.02, "betas": [0.8, 0.95], "eps": 1e-3, "weight_decay": DECAY},
]
NAMES = ["sgd", "momentum", "nesterov", "adam", "adamw"]


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES))


def weights_of(model: nn.Sequential) -> Array:
    """Weights and biases [classes, pixels + 1]."""
    return np.concatenate([model[1].weight.detach().numpy(), model[1].bias.detach().numpy()[:, None]], 1).astype(float)


def train(training: Training, model: nn.Sequential, *rounds: int) -> dict[str, float]:
    """Train the rounds with one trainer; return the last round's metrics."""
    trainer, metrics = Trainer({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, training), {}
    for number in rounds:
        metrics = local_update(trainer, make_client_data(), number=number, seed=SEED, client=CLIENT)
    return metrics


def inputs() -> tuple[Array, npt.NDArray[np.int64]]:
    """Images [N, pixels + 1] with a constant column, and labels."""
    data = make_client_data()
    images = (data.images.numpy().reshape(N, -1) / 255 - 0.5) / 0.25
    return np.concatenate([images, np.ones((N, 1))], 1), data.labels.numpy()


def batches(epoch: int) -> list[npt.NDArray[np.int64]]:
    return np.split(numpy_rng(SEED, "order", CLIENT, epoch).permutation(N), range(BATCH, N, BATCH))


def gradient(w: Array, batch: npt.NDArray[np.int64]) -> Array:
    """Gradient of the mean cross-entropy."""
    x, y = inputs()
    scores = np.exp(x[batch] @ w.T)
    probabilities = scores / scores.sum(1, keepdims=True)
    return (probabilities - np.eye(CLASSES)[y[batch]]).T @ x[batch] / len(batch)


def numpy_step(optimizer: dict[str, Any]) -> Callable[[Array, Array], Array]:
    """A new optimizer: (weights, gradient) -> weights."""
    first, second, steps = 0.0, 0.0, 0
    lr = optimizer["lr"]

    def sgd(w: Array, g: Array) -> Array:
        nonlocal first
        g = g + DECAY * w
        first = optimizer["momentum"] * first + g
        return w - lr * (g + optimizer["momentum"] * first if optimizer.get("nesterov") else first)

    def adam(w: Array, g: Array) -> Array:
        nonlocal first, second, steps
        steps += 1
        if optimizer["name"] == "adam":
            g = g + DECAY * w
        else:
            w = w - lr * DECAY * w
        b1, b2 = optimizer["betas"]
        first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g**2
        return w - lr * (first / (1 - b1**steps)) / (np.sqrt(second / (1 - b2**steps)) + optimizer["eps"])

    return sgd if optimizer["name"] == "sgd" else adam


def numpy_train(w: Array, optimizer: dict[str, Any], taken: list[Any], norm: float = np.inf) -> Iterator[Array]:
    """The weights after each batch, gradients clipped to a norm."""
    step = numpy_step(optimizer)
    for batch in taken:
        g = gradient(w, batch)
        w = step(w, g * min(1, norm / (np.sqrt((g**2).sum()) + 1e-6)))
        yield w


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=NAMES)
def test_two_rounds_equal_numpy_with_moments_reset(optimizer: dict[str, Any]) -> None:
    model, start = make_model(), weights_of(make_model())
    train(Training.model_validate({"batch_size": BATCH, "optimizer": optimizer}), model, 1, 2)
    *_, first = numpy_train(start, optimizer, batches(0))
    *_, second = numpy_train(first, optimizer, batches(1))
    np.testing.assert_allclose(weights_of(model), second, rtol=0, atol=2e-6)
    *_, kept = numpy_train(start, optimizer, [*batches(0), *batches(1)])
    assert np.abs(kept - second).max() > 1e-3 or optimizer.get("momentum") == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=NAMES)
def test_results_differ_between_all_optimizers(optimizer: dict[str, Any]) -> None:
    """The comparison with NumPy could not tell two optimizers apart if their results were equal."""
    *_, own = numpy_train(weights_of(make_model()), optimizer, batches(0))
    for other in OPTIMIZERS:
        *_, weights = numpy_train(weights_of(make_model()), other, batches(0))
        assert other is optimizer or np.abs(weights - own).max() > 1e-4


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=NAMES)
@pytest.mark.parametrize("norm", [0.5, 2.0])
def test_gradients_longer_than_the_norm_are_scaled(optimizer: dict[str, Any], norm: float) -> None:
    model, start = make_model(), weights_of(make_model())
    lengths = [np.linalg.norm(gradient(start, batch)) for batch in batches(0)]
    train(Training.model_validate({"batch_size": BATCH, "optimizer": optimizer, "clip_norm": norm}), model, 1)
    *_, expected = numpy_train(start, optimizer, batches(0), norm)
    np.testing.assert_allclose(weights_of(model), expected, rtol=0, atol=2e-6)
    *_, unclipped = numpy_train(start, optimizer, batches(0))
    assert max(lengths) > norm
    assert np.abs(expected - unclipped).max() > 1e-4


def test_a_norm_that_no_gradient_reaches_changes_no_bit() -> None:
    clipped, free = make_model(), make_model()
    train(Training(batch_size=BATCH, clip_norm=1e6), clipped, 1)
    train(Training(batch_size=BATCH), free, 1)
    assert np.array_equal(weights_of(clipped), weights_of(free))


def test_each_models_gradient_has_a_norm_of_its_own() -> None:
    """The private model's gradient is longer than the limit, and the proxy's is not."""
    training = Training.model_validate({"batch_size": BATCH, "clip_norm": 8, "local_steps": 1})
    alone, pair = make_model(), {"proxy": make_model(), "private": make_model()}
    terms = {"proxy": [LossTerm("cross_entropy")], "private": [LossTerm("cross_entropy", 100.0)]}
    local_update(Trainer(pair, terms, training), make_client_data(), number=1, seed=SEED, client=CLIENT)
    train(training, alone, 1)
    assert np.array_equal(weights_of(alone), weights_of(pair["proxy"]))
    moved = (weights_of(pair["private"]) - weights_of(make_model())) / 0.01
    step = moved + 5e-4 * weights_of(make_model())
    np.testing.assert_allclose(np.linalg.norm(step), 8, rtol=1e-3)


@pytest.mark.parametrize("steps", [1, 3, 5, 7, 12])
def test_local_steps_pass_through_the_examples_again(steps: int) -> None:
    """23 examples are five batches: 5, 5, 5, 5 and 3. Round 2 starts where the epochs of round 1 end."""
    optimizer, model = OPTIMIZERS[1], make_model()
    training = Training.model_validate({"batch_size": BATCH, "local_steps": steps, "optimizer": optimizer})
    metrics = train(training, model, 2)
    epochs = -(-steps // 5)
    taken = [batch for epoch in range(epochs, 2 * epochs) for batch in batches(epoch)][:steps]
    trajectory = [weights_of(make_model()), *numpy_train(weights_of(make_model()), optimizer, taken)]
    np.testing.assert_allclose(weights_of(model), trajectory[-1], rtol=0, atol=2e-6)
    x, y = inputs()
    scores = [x[batch] @ w.T for batch, w in zip(taken, trajectory, strict=False)]
    losses = [np.log(np.exp(s).sum(1)) - s[range(len(b)), y[b]] for b, s in zip(taken, scores, strict=True)]
    assert metrics["loss_cross_entropy"] == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)
    last = slice(5 * (epochs - 1), None)
    correct = [s.argmax(1) == y[b] for b, s in zip(taken[last], scores[last], strict=True)]
    assert metrics["train_accuracy"] == pytest.approx(np.concatenate(correct).mean())
