"""Local training: the only SGD loop in fedray, used for clients and for teachers that are fitted."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from fedray.losses.terms import FrozenOutputs, LossInputs, evaluate_objective, uses_reference
from fedray.models.heads import FeatureTap
from fedray.models.precision import autocast
from fedray.models.projection import Projected
from fedray.seeding import torch_rng
from fedray.training.batches import Batch, ClientData, batches
from fedray.training.cuda_graph import CudaGraphStep
from fedray.training.optimizers import make_optimizer
from fedray.training.schedules import Schedule
from fedray.training.sections import Training
from fedray.types import ArrayGroups, LossTerm, Weights, loss_column


def local_update(
    trainer: "Trainer",
    data: ClientData,
    *,
    number: int,
    seed: int,
    client: int,
    first_epoch: int | None = None,
    step_schedule: Schedule | None = None,
) -> dict[str, float]:
    """Train the trainer's models in place on one client's examples, for the epochs or steps of round `number`.

    The optimizer's moments start at zero. `first_epoch` is the number of the first epoch over all rounds, if the round
    has several phases. `step_schedule` scales the learning rate of each step. Return the mean of
    each loss term over the examples of all steps (`loss_kd`; `loss_private_kd` for the private model), and
    `train_accuracy`: the proxy's accuracy on the batches of the last epoch, before each step.
    """
    training, epochs = trainer.training, trainer.training.epochs(number, len(data))
    if first_epoch is not None:
        epochs = range(first_epoch, first_epoch + len(epochs))
    lr, steps = training.learning_rate(number), training.steps(len(data))
    trainer.reset(lr)
    step = 0
    with torch_rng(data.device, seed, "dropout", client, epochs.start):
        for epoch in epochs:
            trainer.start_epoch()
            for batch in islice(batches(data, training, seed=seed, client=client, epoch=epoch), steps - step):
                step += 1
                if step_schedule is not None:
                    trainer.set_learning_rate(lr * step_schedule.factor(step, steps))
                trainer.step(batch)
    return trainer.means(len(data))


class Trainer:
    """Trains one or several models on the same batches, each model on its own objective.

    The logits of the other models are constants in a model's loss. Frozen models are evaluated on the same batches, for
    loss terms that read their outputs. `taps` keep the features of the proxy and of frozen models, by name, if the
    strategy uses features. A trainer is reused for one client after another.
    Its tensors and the models' parameters keep their addresses, because a CUDA graph requires it.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        objectives: Mapping[str, Sequence[LossTerm]],
        training: Training,
        *,
        frozen: Mapping[str, nn.Module] = MappingProxyType({}),
        taps: Mapping[str, FeatureTap] = MappingProxyType({}),
        graph: bool = True,
    ) -> None:
        self.training = training
        self._models, self._objectives, self._frozen, self._taps = models, objectives, frozen, taps
        self._trained = {name: list(model.parameters()) for name, model in models.items()}
        all_parameters = [p for parameters in self._trained.values() for p in parameters]
        self._parameters = {name: list(_exchanged(model).parameters()) for name, model in models.items()}
        self._device = all_parameters[0].device
        self._optimizer = make_optimizer(training.optimizer, all_parameters)
        self._reference_params = {
            name: [torch.empty_like(p) for p in self._parameters[name]] if uses_reference(terms) else []
            for name, terms in objectives.items()
        }
        self._constants: dict[str, list[Tensor]] = {}
        self.initial_moments: Weights = {}
        """Moments of the optimizer after the next `reset`, as `moments` returns them; empty for zero."""
        self._meter = LossMeter(objectives, self._device)
        use_graph = graph and self._device.type == "cuda"
        self.step: Callable[[Batch], None] = CudaGraphStep(self._step, training.batch_size) if use_graph else self._step

    def reset(self, lr: float) -> None:
        """Prepare for the next client, whose initial weights the models already hold, and its learning rate."""
        for model in self._models.values():
            model.train()
        self._optimizer.reset(lr, self.initial_moments)
        for name, references in self._reference_params.items():
            for reference, parameter in zip(references, self._parameters[name], strict=False):
                reference.copy_(parameter.detach())
        self._meter.reset()

    def moments(self) -> Weights:
        """Return a copy of the optimizer's moments."""
        return self._optimizer.moments()

    def set_constants(self, constants: ArrayGroups) -> None:
        """Copy groups of one array per trained parameter of the proxy to the device, always to the same addresses."""
        names = [name for name, _ in _exchanged(self._models["proxy"]).named_parameters()]
        parameters = self._parameters["proxy"]
        for group, arrays in constants.items():
            tensors = self._constants.setdefault(group, [torch.empty_like(p) for p in parameters])
            for tensor, name in zip(tensors, names, strict=True):
                tensor.copy_(torch.from_numpy(np.array(arrays[name])))  # a copy: arrays from Ray are read-only

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        self._optimizer.set_learning_rate(lr)

    def start_epoch(self) -> None:
        """Restart the count of correct predictions."""
        self._meter.start_epoch()

    def means(self, examples: int) -> dict[str, float]:
        """Return the metrics since `reset`, for a client with this number of examples."""
        trained = self.training.trained_examples(examples)
        return self._meter.means(trained, in_last_epoch=(trained - 1) % examples + 1)

    def _frozen_outputs(self, batch: Batch) -> dict[str, FrozenOutputs]:
        outputs = {}
        for name, model in self._frozen.items():
            with torch.no_grad(), autocast(self._device, self.training.precision):
                logits = model(batch.images).float()
            outputs[name] = FrozenOutputs(logits, self._taps[name].features if name in self._taps else None)
        return outputs

    def _step(self, batch: Batch) -> None:
        with autocast(self._device, self.training.precision):
            logits = {name: model(batch.images).float() for name, model in self._models.items()}
        frozen, losses = self._frozen_outputs(batch), []
        for name, terms in self._objectives.items():
            model = self._models[name]
            inputs = LossInputs(
                name,
                logits,
                batch.labels,
                batch.targets,
                model.projected if isinstance(model, Projected) else None,
                self._parameters[name],
                self._reference_params[name],
                self._constants,
                self._taps[name].features if name in self._taps else None,
                frozen,
            )
            loss, values = evaluate_objective(terms, inputs)
            self._meter.add(inputs, values)
            losses.append(loss)
        torch.autograd.backward(losses)
        if self.training.clip_norm is not None:
            for parameters in self._trained.values():
                nn.utils.clip_grad_norm_(parameters, self.training.clip_norm)
        self._optimizer.step()


def _exchanged(model: nn.Module) -> nn.Module:
    """Return the model without its projection, which stays on the client: loss terms on parameters omit it."""
    return model.proxy if isinstance(model, Projected) else model


class LossMeter:
    """Sums of losses and correct predictions over batches, kept on the device so that no step synchronises."""

    def __init__(self, objectives: Mapping[str, Sequence[LossTerm]], device: torch.device) -> None:
        columns = [loss_column(model, term.loss) for model, terms in objectives.items() for term in terms]
        self._sums = {column: torch.zeros((), dtype=torch.float64, device=device) for column in columns}
        self._correct = torch.zeros((), dtype=torch.float64, device=device)

    def reset(self) -> None:
        """Set all loss sums to zero."""
        for total in self._sums.values():
            total.zero_()

    def start_epoch(self) -> None:
        """Set the count of correct predictions to zero."""
        self._correct.zero_()

    def add(self, inputs: LossInputs, values: Mapping[str, Tensor]) -> None:
        """Add one model's loss terms for one batch, and for the proxy its correct predictions."""
        for name, value in values.items():
            self._sums[loss_column(inputs.model, name)].add_(value, alpha=len(inputs.labels))
        if inputs.model == "proxy":
            self._correct.add_((inputs.model_logits.detach().argmax(1) == inputs.labels).sum())

    def means(self, examples: int, in_last_epoch: int) -> dict[str, float]:
        """Return the mean of each loss term over all examples of the steps, and the accuracy in the last epoch."""
        *totals, correct = torch.stack([*self._sums.values(), self._correct]).tolist()
        means = {name: total / examples for name, total in zip(self._sums, totals, strict=True)}
        return means | {"train_accuracy": correct / in_last_epoch}
