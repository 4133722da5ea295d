"""One training step before training begins, which finds models that cannot train on the data."""

import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import LostError, SpecError
from fedray.seeding import torch_rng
from fedray.teachers.targets import CachedTargets
from fedray.training.batches import ClientData, input_shape
from fedray.training.context import ClientContext
from fedray.training.local_update import local_update
from fedray.types import OutputKind, TargetArrays
from fedray.workers.client_models import ClientModels, Targets

FORWARD, BACKWARD = ("module.py", "_call_impl"), ("_tensor.py", "backward")
"""Files and functions of torch through which each forward and backward pass goes."""

FEATURE_WIDTH = 16
"""Width of the placeholder features: teachers run only after this check."""


def placeholder_targets(
    kinds: Sequence[OutputKind], examples: int, classes: int, device: torch.device
) -> CachedTargets | None:
    """Return zeros of the shape of a client's targets; None if the loss reads none."""
    width = {"logits": classes, "features": FEATURE_WIDTH}
    arrays: TargetArrays = {kind: np.zeros((1, examples, width[kind]), np.float32) for kind in kinds}
    return CachedTargets(arrays, 0, device) if arrays else None


def try_batch(
    context: ClientContext, experiment: Experiment, federated: FederatedDataset, data: ClientData, targets: Targets
) -> str:
    """Train new models on `data`, a single batch; return the reason why that fails, or an empty text.

    Neither the worker's models nor torch's global generators change. A lack of memory is no reason: it need not last.
    Only errors of a model's forward and backward pass are reasons; others are raised.
    """
    training = experiment.training.model_copy(update={"local_epochs": 1, "local_steps": None})
    once = experiment.model_copy(update={"training": training})
    with torch_rng(data.device, experiment.seed, "try batch"):
        models = ClientModels(once, input_shape(data.images, len(federated.train.classes)), data.device)
        try:
            start = experiment.strategy.client_init(context)
            trainers = models.load(context, start, targets)
            for phase, trainer in zip(experiment.strategy.phases(), trainers, strict=True):
                if phase.data == "own":
                    local_update(trainer, data, number=1, seed=experiment.seed, client=context.client)
        except SpecError as error:
            return str(error)
        except LostError:
            raise
        except Exception as error:  # a model may raise anything
            if is_of_machine(error):
                return ""
            if (failing := _failing_model(error, models, experiment, data)) is None:
                raise
            return f"{failing}, {_cause(error, failing, experiment, federated, context.client, len(data))}."
    return ""


def is_of_machine(error: Exception) -> bool:
    """Whether an error is a lack of memory or one of CUDA, which need not occur again."""
    return "memory" in f"{type(error).__name__} {error}".lower() or "CUDA error" in str(error)


def _failing_model(error: Exception, models: ClientModels, experiment: Experiment, data: ClientData) -> str | None:
    """Return field and value of the model whose forward or backward pass fails; None if neither raised the error."""
    functions = {(Path(frame.filename).name, frame.name) for frame in traceback.extract_tb(error.__traceback__)}
    if not functions & {FORWARD, BACKWARD}:
        return None
    for name in experiment.strategy.active_objectives():
        try:
            models.model(name).train()(data.normalize(data.images))
        except Exception:  # the same that the step has raised
            return f"{'proxy' if name == 'proxy' else 'strategy.private'}.name is '{models.spec(name).name}'"
    return f"proxy.name is '{experiment.proxy.name}'" if BACKWARD in functions else None


def _cause(
    error: Exception, model: str, experiment: Experiment, federated: FederatedDataset, client: int, examples: int
) -> str:
    """Return a clause with the reason, and with the remedies where they are known."""
    if "more than 1 value per channel" not in str(error):
        shape, images = federated.train.shape, "1 image" if examples == 1 else f"{examples} images"
        reason = str(error).strip().partition("\n")[0][:300].rstrip(".")
        size = f"{shape.channels}x{shape.size}x{shape.size}"
        return f"which cannot be trained on {images} of {size} ({type(error).__name__}: {reason})"
    norm = "choose a model without BatchNorm" if "timm:" in model else f"set {model.partition('.name')[0]}.norm: group"
    remedy = (
        "training.batch_size is 1; raise it"
        if experiment.training.batch_size == 1
        else f"client {federated.client_label(client)} has one example; give each client two or more"
    )
    return f"whose BatchNorm layers cannot train on a batch of one example, and {remedy}, or {norm}"
