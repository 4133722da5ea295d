"""A stand-in for a foundation model, for where none can be downloaded: say so when you report it.

It is a small network fitted once, on a public split that no client holds.
"""

import torch

from fedray.client import Trainer, local_update
from fedray.config import Training
from fedray.data.federation import Federation
from fedray.errors import SpecError
from fedray.models import heads, proxies
from fedray.seeding import torch_rng
from fedray.shard import Normalization, Shard
from fedray.teachers.network import Teacher, frozen
from fedray.teachers.sections import Supervised
from fedray.types import Term


def load(spec: Supervised, federation: Federation, seed: int, device: torch.device) -> Teacher:
    """Fit it; the same spec and seed give the same network. Raises SpecError without public examples."""
    if not len(federation.public):
        raise SpecError("teacher: the stand-in has no public examples to be fitted on; raise data.public_fraction.")
    normalize = Normalization.of(federation, device)
    with torch_rng(device, seed, "teacher"):
        model = proxies.build(spec.model, federation.train.shape).to(device)
    public = federation.train.take(federation.public)
    training = Training(local_epochs=spec.epochs, batch_size=spec.batch_size, lr=spec.lr)
    trainer = Trainer({"proxy": model}, {"proxy": [Term("cross_entropy")]}, training)
    shard = Shard.of(public, federation.public, normalize, device)
    local_update(trainer, shard, first_epoch=0, seed=seed, client=-1)
    backbone, head = heads.split(frozen(model), federation.train.shape.classes)
    return Teacher("the stand-in", normalize, backbone, head, device, spec.batch_size, spec.precision)
