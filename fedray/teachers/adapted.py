"""A teacher that is fitted further on one client's own examples before round 1."""

import copy
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedray.data.dataset import Dataset
from fedray.teachers.sections import Adapted
from fedray.teachers.teacher import Teacher, frozen
from fedray.training.batches import ClientData, unchanged
from fedray.training.local_update import Trainer, local_update
from fedray.training.sections import SGD, Training
from fedray.types import Indices, LossTerm


def adapt(spec: Adapted, base: Teacher, data: Dataset, examples: Indices, seed: int, client: int) -> Teacher:
    """Return a copy of the base teacher, fitted to the client's data by `spec.method`."""
    if spec.method == "linear_probe":
        features = base.outputs(data.images)["features"]
        head = probe(spec, features, data.labels, base.head, len(data.classes), seed, client)
        return replace(base, head=head.to(base.device))
    model = nn.Sequential(copy.deepcopy(base.backbone), initial_head(base.head, base.width, len(data.classes)))
    model = model.to(base.device).requires_grad_(True)
    _fit(spec, model, ClientData.of(data, examples, base.prepare, base.device), seed, client)
    return replace(base, backbone=frozen(model[0]), head=frozen(model[1]))


def probe(
    spec: Adapted,
    features: npt.NDArray[np.floating],
    labels: Indices,
    base_head: nn.Module,
    classes: int,
    seed: int,
    client: int,
) -> nn.Linear:
    """Fit a linear head to features [n, d] and labels [n], starting from the base teacher's head.

    Features are scaled to mean square 1 while it is fitted, so that one learning rate suits every backbone.
    """
    inputs = torch.from_numpy(features)
    scale = float(inputs.square().mean().sqrt().clamp_min(1e-12))
    head = initial_head(base_head, inputs.shape[1], classes).cpu().requires_grad_(True)
    with torch.no_grad():
        head.weight.mul_(scale)
    examples = np.arange(len(labels))
    _fit(spec, head, ClientData(inputs / scale, torch.from_numpy(labels), examples, unchanged), seed, client)
    with torch.no_grad():
        head.weight.div_(scale)
    frozen(head)
    return head


def initial_head(head: nn.Module, width: int, classes: int) -> nn.Linear:
    """Copy the teacher's head if it is linear with this number of classes, as CLIP's is; otherwise return zeros."""
    if isinstance(head, nn.Linear) and head.out_features == classes:
        return copy.deepcopy(head)
    zeros = nn.Linear(width, classes)
    with torch.no_grad():
        zeros.weight.zero_()
        zeros.bias.zero_()
    return zeros


def _fit(spec: Adapted, model: nn.Module, data: ClientData, seed: int, client: int) -> None:
    training = Training(
        local_epochs=spec.epochs,
        batch_size=spec.batch_size,
        optimizer=SGD(lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay),
        memory_format="contiguous",
    )
    trainer = Trainer({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, training)
    local_update(trainer, data, number=1, seed=seed, client=client)
