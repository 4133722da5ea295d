"""A stand-in for a foundation model, for where none can be downloaded: say so when you report it.

It is a small network fitted once, on a public split that no client holds.
"""

import numpy as np
import torch

from fedray.client import Normalization, Shard, local_update
from fedray.config import Supervised, Training
from fedray.data.dataset import Dataset
from fedray.data.federation import Federation
from fedray.errors import SpecError
from fedray.models import proxies
from fedray.seeding import torch_rng
from fedray.teachers.base import Logits, check_logits
from fedray.types import Term

BATCH = 500


class SupervisedTeacher:
    """Fitted when it is made; the same spec and seed give the same network."""

    def __init__(self, spec: Supervised, federation: Federation, seed: int, device: torch.device) -> None:
        if not len(federation.public):
            raise SpecError("teacher: the stand-in has no public examples to be fitted on; raise data.public_fraction.")
        self._normalize = Normalization.of(federation, device)
        self._device = device
        with torch_rng(device, seed, "teacher"):
            self._model = proxies.build(spec.model, federation.train.shape).to(device)
        public = federation.train.take(federation.public)
        local_update(
            {"proxy": self._model},
            {"proxy": [Term("cross_entropy")]},
            Shard.of(public, federation.public, None, self._normalize, device, crop_flip=False),
            Training(local_epochs=spec.epochs, batch_size=spec.batch_size, lr=spec.lr),
            first_epoch=0,
            seed=seed,
            client=-1,
        )
        self._model.eval().requires_grad_(False)

    @torch.inference_mode()
    def logits(self, data: Dataset) -> Logits:
        parts = [torch.from_numpy(np.array(data.images[i : i + BATCH])) for i in range(0, len(data), BATCH)]
        logits = [self._model(self._normalize(part.to(self._device))).cpu() for part in parts]
        return check_logits(torch.cat(logits).numpy(), data, "the stand-in")
