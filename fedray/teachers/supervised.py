"""A stand-in for a foundation model where none can be downloaded. Name it as such in a publication.

It is a small network, fitted once on the public split, which no client holds.
"""

import torch

from fedray.data.federated import FederatedDataset
from fedray.errors import SpecError
from fedray.models import heads, proxies
from fedray.seeding import torch_rng
from fedray.teachers.sections import Supervised
from fedray.teachers.teacher import Teacher, frozen
from fedray.training.batches import ClientData, Normalization
from fedray.training.local_update import Trainer, local_update
from fedray.training.sections import SGD, Training
from fedray.types import LossTerm


def load(spec: Supervised, federated: FederatedDataset, seed: int, device: torch.device) -> Teacher:
    """Fit the network; equal specs and seeds give equal weights. Raises SpecError without public examples."""
    if not len(federated.public):
        raise SpecError("teacher: the stand-in has no public examples to be fitted on; raise data.public_fraction.")
    normalize = Normalization.of(federated, device)
    with torch_rng(device, seed, "teacher"):
        model = proxies.build(spec.model, federated.train.shape).to(device)
    public = federated.train.take(federated.public)
    training = Training(local_epochs=spec.epochs, batch_size=spec.batch_size, optimizer=SGD(lr=spec.lr))
    trainer = Trainer({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, training)
    data = ClientData.of(public, federated.public, normalize, device)
    local_update(trainer, data, number=1, seed=seed, client=-1)
    backbone, head = heads.split_head(frozen(model, fast_layers=spec.fast_layers), federated.train.shape.classes)
    return Teacher("the stand-in", normalize, backbone, head, device, spec.batch_size, spec.precision)
