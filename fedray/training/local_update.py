"""Local training: the only SGD loop in fedray. Clients run it, and so does the stand-in teacher."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from fedray.losses.terms import LossInputs, evaluate, uses_reference
from fedray.models.precision import autocast
from fedray.seeding import torch_rng
from fedray.training.batches import Batch, ClientData, batches
from fedray.training.cuda_graph import CudaGraphStep
from fedray.training.sections import Training
from fedray.types import LossTerm, loss_column


def local_update(
    trainer: "Trainer", shard: ClientData, *, first_epoch: int, seed: int, client: int
) -> dict[str, float]:
    """Train the trainer's models in place for `training.local_epochs` epochs on one client's examples.

    Momentum starts at zero. Returns means over the epochs' examples: each term's value
    (`loss_kd`; `loss_private_kd` for a model beside the proxy) and, of the last epoch,
    `train_accuracy`: the share of examples the proxy had right as it trained on them.
    """
    training = trainer.training
    trainer.begin()
    with torch_rng(shard.device, seed, "dropout", client, first_epoch):
        for epoch in range(first_epoch, first_epoch + training.local_epochs):
            trainer.begin_epoch(learning_rate(training, epoch))
            for batch in batches(shard, training, seed=seed, client=client, epoch=epoch):
                trainer.step(batch)
    return trainer.means(len(shard))


def learning_rate(training: Training, epoch: int) -> float:
    """Step decay by cumulative local epoch: lr · factor^(epoch // decay_every)."""
    steps = epoch // training.decay_every if training.decay_every else 0
    return training.lr * training.decay_factor**steps


class Trainer:
    """Models that learn from the same batches, each on its own objective, and what SGD keeps of them.

    Each sees the others' logits as constants. A trainer is made once and serves client after client: what it
    keeps between steps stays at its place in memory, as a CUDA graph needs it, and so must the models' parameters.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        objectives: Mapping[str, Sequence[LossTerm]],
        training: Training,
        *,
        graph: bool = True,
    ) -> None:
        self.training = training
        self._models, self._objectives = models, objectives
        self._parameters = {name: list(model.parameters()) for name, model in models.items()}
        self._everything = [p for own in self._parameters.values() for p in own]
        self._device = self._everything[0].device
        self._lr = torch.tensor(training.lr, device=self._device)
        self._weights = [_flat(p.detach()) for p in self._everything]
        self._momenta = [torch.zeros_like(p) for p in self._weights] if training.momentum else []
        self._reference_params = {
            name: [torch.empty_like(p) for p in self._parameters[name]] if uses_reference(terms) else []
            for name, terms in objectives.items()
        }
        self._meter = LossMeter(objectives, self._device)
        graphed = graph and self._device.type == "cuda"
        self.step: Callable[[Batch], None] = CudaGraphStep(self._step, training.batch_size) if graphed else self._step

    def begin(self) -> None:
        """Forget the last client: the models hold the weights that this one has received."""
        for model in self._models.values():
            model.train()
        for momentum in self._momenta:
            momentum.zero_()
        for name, reference_params in self._reference_params.items():
            for anchor, parameter in zip(reference_params, self._parameters[name], strict=False):
                anchor.copy_(parameter.detach())
        self._meter.begin()

    def begin_epoch(self, lr: float) -> None:
        """The rate of the steps to come; accuracy is counted anew."""
        self._lr.fill_(lr)
        self._meter.begin_epoch()

    def means(self, examples: int) -> dict[str, float]:
        """Of all steps since `begin`, in epochs of so many examples."""
        return self._meter.means(examples, self.training.local_epochs)

    def _step(self, batch: Batch) -> None:
        with autocast(self._device, self.training.precision):
            logits = {name: model(batch.images).float() for name, model in self._models.items()}
        losses = []
        for name, terms in self._objectives.items():
            projected = getattr(self._models[name], "projected", None)
            step = LossInputs(
                name,
                logits,
                batch.labels,
                batch.targets,
                projected,
                self._parameters[name],
                self._reference_params[name],
            )
            loss, values = evaluate(terms, step)
            self._meter.add(step, values)
            losses.append(loss)
        torch.autograd.backward(losses)
        self._descend()

    def _descend(self) -> None:
        """One step of SGD for each parameter that has a gradient, which is used up.

        What `torch.optim.SGD` does, without it: two seconds and 75 MB go by in each process as it imports a compiler.
        Gradients lie as their parameters do; torch's kernel copies what is not in the order of its indices.
        """
        training = self.training
        moved = [place for place, parameter in enumerate(self._everything) if parameter.grad is not None]
        sgd(
            [self._weights[place] for place in moved],
            [_flat(self._everything[place].grad) for place in moved],  # type: ignore[arg-type]  # of those that have one
            [self._momenta[place] if self._momenta else None for place in moved],
            fused=True, lr=self._lr, momentum=training.momentum, weight_decay=training.weight_decay,
            dampening=0, nesterov=False, maximize=False,
        )  # fmt: skip
        for parameter in self._everything:
            parameter.grad = None


def _flat(tensor: Tensor) -> Tensor:
    """Its numbers [n] as they follow one another in memory, where they remain. Parameters of layers have no gaps."""
    return tensor.as_strided((tensor.numel(),), (1,))


class LossMeter:
    """Sums over batches, kept on the device so that no step waits for it."""

    def __init__(self, objectives: Mapping[str, Sequence[LossTerm]], device: torch.device) -> None:
        columns = [loss_column(model, term.loss) for model, terms in objectives.items() for term in terms]
        self._sums = {column: torch.zeros((), dtype=torch.float64, device=device) for column in columns}
        self._right = torch.zeros((), dtype=torch.float64, device=device)

    def begin(self) -> None:
        for total in self._sums.values():
            total.zero_()

    def begin_epoch(self) -> None:
        self._right.zero_()

    def add(self, step: LossInputs, values: Mapping[str, Tensor]) -> None:
        """What the terms are for one batch."""
        for name, value in values.items():
            self._sums[loss_column(step.model, name)].add_(value, alpha=len(step.labels))
        if step.model == "proxy":
            self._right.add_((step.own_logits.detach().argmax(1) == step.labels).sum())

    def means(self, examples: int, epochs: int) -> dict[str, float]:
        """Each sum over all examples of all epochs, and the share of one epoch's examples that was right."""
        *totals, right = torch.stack([*self._sums.values(), self._right]).tolist()
        means = {name: total / (examples * epochs) for name, total in zip(self._sums, totals, strict=True)}
        return means | {"train_accuracy": right / examples}
