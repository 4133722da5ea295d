"""A teacher fitted further on one client's own examples, before the federation begins."""

import copy
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedray.data.dataset import Dataset
from fedray.teachers.sections import Adapted
from fedray.teachers.teacher import Teacher, frozen
from fedray.training.batches import ClientData
from fedray.training.local_update import Trainer, local_update
from fedray.training.sections import Training
from fedray.types import Indices, LossTerm


def adapt(spec: Adapted, base: Teacher, own: Dataset, examples: Indices, seed: int, client: int) -> Teacher:
    """The base as `spec.method` leaves it after the client's examples."""
    if spec.method == "linear_probe":
        head = probe(spec, base.ask(own.images)["features"], own.labels, base.head, len(own.classes), seed, client)
        return replace(base, head=head.to(base.device))
    model = nn.Sequential(copy.deepcopy(base.backbone), first_head(base.head, base.width, len(own.classes)))
    model = model.to(base.device).requires_grad_(True)
    shard = ClientData.of(own, examples, base.prepare, base.device)
    _fit(spec, model, shard, seed, client)
    return replace(base, backbone=frozen(model[0]), head=frozen(model[1]))


def probe(
    spec: Adapted,
    features: npt.NDArray[np.float32],
    labels: Indices,
    start: nn.Module,
    classes: int,
    seed: int,
    client: int,
) -> nn.Linear:
    """A linear head fitted to features [n, d] and labels [n], from the head that the teacher came with.

    It is fitted on features brought to mean square 1, so that one learning rate suits every backbone.
    """
    inputs = torch.from_numpy(features)
    scale = float(inputs.square().mean().sqrt().clamp_min(1e-12))
    head = first_head(start, inputs.shape[1], classes).cpu().requires_grad_(True)
    with torch.no_grad():
        head.weight.mul_(scale)
    examples = np.arange(len(labels))
    _fit(spec, head, ClientData(inputs / scale, torch.from_numpy(labels), examples, _unchanged), seed, client)
    with torch.no_grad():
        head.weight.div_(scale)
    frozen(head)
    return head


def first_head(head: nn.Module, width: int, classes: int) -> nn.Linear:
    """A copy of the teacher's own head where it is linear and for these classes, as CLIP's prompts are; else zeros."""
    if isinstance(head, nn.Linear) and head.out_features == classes:
        return copy.deepcopy(head)
    fresh = nn.Linear(width, classes)
    with torch.no_grad():
        fresh.weight.zero_()
        fresh.bias.zero_()
    return fresh


def _fit(spec: Adapted, model: nn.Module, shard: ClientData, seed: int, client: int) -> None:
    training = Training(
        local_epochs=spec.epochs,
        batch_size=spec.batch_size,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        memory_format="contiguous",
    )
    trainer = Trainer({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, training)
    local_update(trainer, shard, first_epoch=0, seed=seed, client=client)


def _unchanged(images: Tensor) -> Tensor:
    return images
