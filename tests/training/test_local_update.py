"""The SGD loop against a second implementation, and its invariants."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from helpers.client_data import CLASSES, TEACHER_OUTPUTS, WIDTH, N, RecordingTargets, make_client_data
from torch import nn

from fedray.losses.terms import LossInputs
from fedray.models.cnn import SmallCNN
from fedray.models.precision import memory_format
from fedray.models.projection import Projected
from fedray.seeding import numpy_rng
from fedray.training.batches import ClientData
from fedray.training.local_update import Trainer, local_update
from fedray.training.schedules import StepSchedule
from fedray.training.sections import SGD, AdamW, AnyOptimizer, Training
from fedray.types import LossTerm


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, CLASSES))


TRAINING = Training(
    local_epochs=2,
    batch_size=5,
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
    schedule=StepSchedule(every=1, gamma=0.5),
)


def train(models: Any, objectives: Any, data: ClientData, training: Training, number: int) -> dict[str, float]:
    trainer = Trainer(models, objectives, training)
    return local_update(trainer, data, number=number, seed=7, client=3)


def plain_sgd(model: nn.Module, data: ClientData, loss_of: Any, number: int) -> list[float]:
    """Momentum SGD: v = 0.9 v + (g + wd w), w -= lr v. Return the summed loss of each batch."""
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    losses = []
    lr = 0.1 * 0.5 ** (number - 1)
    for epoch in (2 * number - 2, 2 * number - 1):
        order = numpy_rng(7, "order", 3, epoch).permutation(N)
        for start in range(0, N, 5):
            batch = order[start : start + 5]
            x = (data.images[batch].float() / 255 - 0.5) / 0.25
            loss = loss_of(model(x), data.labels[batch], batch)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g, v in zip(model.parameters(), gradients, velocity, strict=True):
                    v.mul_(0.9).add_(g + 0.01 * p)
                    p.sub_(lr * v)
            losses.append(loss.item() * len(batch))
    return losses


def test_cross_entropy_agrees_with_plain_sgd() -> None:
    data, ours, plain = make_client_data(), make_model(), make_model()
    metrics = train({"proxy": ours}, {"proxy": [LossTerm("cross_entropy")]}, data, TRAINING, number=2)
    losses = plain_sgd(plain, data, lambda z, y, _: nn.functional.cross_entropy(z, y), number=2)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert metrics["loss_cross_entropy"] == pytest.approx(sum(losses) / (2 * N), rel=1e-5)


def test_distillation_agrees_with_plain_sgd() -> None:
    data, ours, plain = make_client_data(RecordingTargets()), make_model(), make_model()

    def loss_of(z: torch.Tensor, y: torch.Tensor, batch: np.ndarray) -> torch.Tensor:
        p, q = torch.softmax(TEACHER_OUTPUTS["logits"][batch] / 2, 1), torch.softmax(z / 2, 1)
        return 0.7 * -torch.log_softmax(z, 1)[range(len(y)), y].mean() + 0.3 * 4 * (p * (p / q).log()).sum(1).mean()

    terms = [LossTerm("cross_entropy", 0.7), LossTerm("kd", 0.3, {"temperature": 2.0})]
    train({"proxy": ours}, {"proxy": terms}, data, TRAINING, number=1)
    plain_sgd(plain, data, loss_of, number=1)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def make_smooth_model() -> nn.Sequential:
    """A model without ReLU: if all features were 0, the cosine below would be NaN."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, CLASSES))


class WithFeatures(nn.Module):
    """The same model with a projection, and access to the output of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make_smooth_model()
        torch.manual_seed(5)
        self.projection = nn.Linear(8, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.layers[:3](x)
        return self.layers[3](hidden), hidden @ self.projection.weight.T


def one_minus_cosine(student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    lengths = (student.square().sum(1) * targets.square().sum(1)).sqrt()
    return 1 - ((student * targets).sum(1) / lengths).mean()


def mean_square(student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (student - targets / targets.square().mean(1, keepdim=True).sqrt()).square().mean()


@pytest.mark.parametrize(("name", "distance"), [("cosine", one_minus_cosine), ("feature_mse", mean_square)])
def test_feature_losses_agree_with_plain_sgd(name: str, distance: Any) -> None:
    data, plain = make_client_data(RecordingTargets()), WithFeatures()
    ours = Projected(make_smooth_model(), CLASSES)
    with torch.no_grad():
        start = ours.reset(WIDTH).weight.copy_(plain.projection.weight).clone()

    def loss_of(z: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor, batch: np.ndarray) -> torch.Tensor:
        logits, projected = z
        supervised = -torch.log_softmax(logits, 1)[range(len(y)), y].mean()
        return 0.6 * supervised + 0.4 * distance(projected, TEACHER_OUTPUTS["features"][batch])

    terms = [LossTerm("cross_entropy", 0.6), LossTerm(name, 0.4, {"temperature": 1.0})]
    metrics = train({"proxy": ours}, {"proxy": terms}, data, TRAINING, number=2)
    losses = plain_sgd(plain, data, loss_of, number=2)
    assert torch.allclose(ours.projection.weight, plain.projection.weight, atol=1e-5)
    assert not torch.allclose(ours.projection.weight, start, atol=1e-2)
    for a, b in zip(ours.proxy.parameters(), plain.layers.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    both = 0.6 * metrics["loss_cross_entropy"] + 0.4 * metrics[f"loss_{name}"]
    assert both == pytest.approx(sum(losses) / (2 * N), rel=1e-4)


def test_terms_on_parameters_omit_the_projection() -> None:
    """FedProx's penalty with a feature loss: the projection stays on the client, and no global model has one."""
    model = Projected(make_model(), CLASSES)
    model.reset(WIDTH)
    shapes: list[list[torch.Size]] = []

    def record(inputs: LossInputs) -> torch.Tensor:
        shapes.append([p.shape for p in inputs.parameters] + [p.shape for p in inputs.reference_params])
        return inputs.model_logits.sum() + inputs.projected.sum()

    train({"proxy": model}, {"proxy": [LossTerm("record", function=record)]}, make_client_data(), TRAINING, 1)
    expected = [p.shape for p in model.proxy.parameters()]
    assert shapes[0] == [*expected, *expected]


def test_mutual_learning_agrees_with_two_separate_backward_passes() -> None:
    data, pair = make_client_data(), {"proxy": make_model(0), "private": make_model(1)}
    objectives = {
        "proxy": [LossTerm("cross_entropy", 0.4), LossTerm("mutual", 0.6)],
        "private": [LossTerm("cross_entropy", 0.5), LossTerm("mutual", 0.5)],
    }
    training = Training(local_epochs=1, batch_size=5, optimizer=SGD(lr=0.1, momentum=0.0, weight_decay=0.0))
    train(pair, objectives, data, training, number=1)

    meme, local = make_model(0), make_model(1)
    for batch in np.split(numpy_rng(7, "order", 3, 0).permutation(N), range(5, N, 5)):
        x, y = (data.images[batch].float() / 255 - 0.5) / 0.25, data.labels[batch]
        meme_logits, local_logits = meme(x), local(x)
        kl = nn.KLDivLoss(reduction="batchmean")
        p_meme, p_local = torch.softmax(meme_logits, 1).detach(), torch.softmax(local_logits, 1).detach()
        meme_loss = 0.4 * nn.functional.cross_entropy(meme_logits, y) + 0.6 * kl(meme_logits.log_softmax(1), p_local)
        local_loss = 0.5 * nn.functional.cross_entropy(local_logits, y) + 0.5 * kl(local_logits.log_softmax(1), p_meme)
        for model, loss in ((meme, meme_loss), (local, local_loss)):
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p.sub_(0.1 * g)
    for ours, plain in ((pair["proxy"], meme), (pair["private"], local)):
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_larger_mu_keeps_weights_nearer_to_the_start() -> None:
    start = [p.detach().clone() for p in make_model().parameters()]
    distances = []
    for mu in (0.0, 1.0, 10.0):
        model = make_model()
        terms = [LossTerm("cross_entropy"), LossTerm("proximal", mu)]
        training = Training(local_epochs=5, batch_size=5, optimizer=SGD(lr=0.05))
        train({"proxy": model}, {"proxy": terms}, make_client_data(), training, number=1)
        distances.append(sum(((p - q) ** 2).sum().item() for p, q in zip(model.parameters(), start, strict=True)))
    assert distances[0] > distances[1] > distances[2]


def test_train_accuracy_is_that_of_the_last_epoch() -> None:
    data, model = make_client_data(), make_model()
    training = Training(local_epochs=3, batch_size=5, optimizer=SGD(lr=1e-12, weight_decay=0))
    metrics = train({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, data, training, number=1)
    predictions = model((data.images.float() / 255 - 0.5) / 0.25).argmax(1)
    assert metrics["train_accuracy"] == pytest.approx((predictions == data.labels).float().mean().item())


def test_dropout_depends_on_seed_client_and_epoch_only() -> None:
    def trained(global_seed: int, client: int) -> torch.Tensor:
        model = nn.Sequential(make_model(), nn.Dropout(0.5))
        torch.manual_seed(global_seed)
        trainer = Trainer({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, TRAINING)
        local_update(trainer, make_client_data(), number=1, seed=7, client=client)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(1, client=3), trained(2, client=3))
    assert not torch.equal(trained(1, client=3), trained(1, client=4))


TERMS = {"proxy": [LossTerm("cross_entropy"), LossTerm("proximal", 0.1)]}


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_trainer_keeps_nothing_of_the_client_before() -> None:
    fresh, used, data = make_model(), make_model(), make_client_data()
    expected = train({"proxy": fresh}, TERMS, data, TRAINING, number=1)
    trainer = Trainer({"proxy": used}, TERMS, TRAINING)
    local_update(trainer, data, number=4, seed=1, client=5)
    assert not torch.allclose(flat(used), flat(make_model()), atol=1e-2)
    used.load_state_dict(make_model().state_dict())
    assert local_update(trainer, data, number=1, seed=7, client=3) == expected
    assert torch.equal(flat(used), flat(fresh))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Round to bfloat16, and the gradient as well."""
    return x.bfloat16().float()


def test_bfloat16_rounds_factors_but_not_weights_and_losses() -> None:
    data, ours, plain = make_client_data(), make_model(), make_model()
    terms = {"proxy": [LossTerm("cross_entropy")]}
    bfloat16 = TRAINING.model_copy(update={"precision": "bfloat16"})
    metrics = train({"proxy": ours}, terms, data, bfloat16, number=2)
    assert all(p.dtype == torch.float32 for p in ours.parameters())

    class Rounded(nn.Module):
        """The model with rounded factors; products are summed in float32 and rounded."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = plain

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = rounded(x.flatten(1))
            for index in (1, 3):
                layer: Any = self.layers[index]
                x = rounded(x @ rounded(layer.weight).T + rounded(layer.bias))
                x = x.relu() if index == 1 else x
            return x

    losses = plain_sgd(Rounded(), data, lambda z, y, _: nn.functional.cross_entropy(z, y), number=2)
    moved = (flat(plain) - flat(make_model())).norm()
    assert (flat(ours) - flat(plain)).norm() < 0.02 * moved
    assert metrics["loss_cross_entropy"] == pytest.approx(sum(losses) / (2 * N), rel=2e-3)
    exact = make_model()
    train({"proxy": exact}, terms, data, TRAINING, number=2)
    assert (flat(ours) - flat(exact)).norm() > (flat(ours) - flat(plain)).norm()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_memory_formats_agree(precision: str, tolerance: float) -> None:
    def train_with(layout: Any) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        model = SmallCNN(1, 6, CLASSES, nn.BatchNorm2d).to(memory_format=memory_format(layout))
        start, change = flat(model), {"optimizer": SGD(lr=0.01), "precision": precision, "memory_format": layout}
        train({"proxy": model}, TERMS, make_client_data(), TRAINING.model_copy(update=change), number=1)
        kernel: Any = model.features[4].weight
        assert kernel.is_contiguous(memory_format=memory_format(layout))
        return start, flat(model)

    (start, nchw), (_, nhwc) = train_with("contiguous"), train_with("channels_last")
    assert (nchw - nhwc).norm() < tolerance * (nchw - start).norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", [TRAINING.optimizer, AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_graph_changes_no_bit(precision: str, optimizer: AnyOptimizer) -> None:
    """With dropout, batch norm, clipping, a teacher, and a last batch that is smaller."""
    cuda = torch.device("cuda")
    changes = {"precision": precision, "local_epochs": 3, "optimizer": optimizer, "clip_norm": 1.0}
    training = TRAINING.model_copy(update=changes)
    terms = {"proxy": [*TERMS["proxy"], LossTerm("kd", 0.3, {"temperature": 2.0})]}

    def trained(*, graph: bool) -> list[Any]:
        torch.manual_seed(0)
        model = nn.Sequential(SmallCNN(1, 6, 16, nn.BatchNorm2d), nn.Dropout(0.5), nn.Linear(16, CLASSES)).to(cuda)
        trainer, start = Trainer({"proxy": model}, terms, training, graph=graph), copy.deepcopy(model.state_dict())
        results = []
        for client in (1, 2):
            model.load_state_dict(start)
            data = make_client_data(RecordingTargets(), crop_flip=True, device=cuda)
            results += [local_update(trainer, data, number=1, seed=7, client=client), flat(model)]
        return results

    for eager, graphed in zip(trained(graph=False), trained(graph=True), strict=True):
        assert torch.equal(eager, graphed) if isinstance(eager, torch.Tensor) else eager == graphed


def test_constants_may_be_read_only_arrays() -> None:
    """As arrays in Ray's object store are. The gradient of the linear term is the constant itself."""
    model = make_model(0)
    constants = {name: np.full(p.shape, 0.25, np.float32) for name, p in model.named_parameters()}
    for array in constants.values():
        array.flags.writeable = False
    optimizer = TRAINING.optimizer.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})
    training = TRAINING.model_copy(update={"optimizer": optimizer, "local_epochs": 1})
    trainer = Trainer({"proxy": model}, {"proxy": [LossTerm("linear", options={"constant": "a"})]}, training)
    trainer.set_constants({"a": constants})
    before, data = flat(model), make_client_data()
    local_update(trainer, data, number=1, seed=7, client=3)
    expected = before - training.steps(len(data)) * training.learning_rate(1) * 0.25
    assert flat(model) == pytest.approx(expected, abs=1e-5)
