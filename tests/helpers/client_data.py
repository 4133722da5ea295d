"""One client's examples, and a teacher whose outputs are read from a table."""

import numpy as np
import torch

from fedray.training.batches import AugmentedBatch, ClientData, Normalization

N, CLASSES = 23, 3
WIDTH = 4
RNG = np.random.default_rng(2)
TEACHER_OUTPUTS = {
    "logits": torch.from_numpy(RNG.normal(size=(N, CLASSES)).astype(np.float32)),
    "features": torch.from_numpy(RNG.normal(size=(N, WIDTH)).astype(np.float32)),
}


class RecordingTargets:
    """Targets read from TEACHER_OUTPUTS. Records the batches that they were requested for."""

    def __init__(self) -> None:
        self.batches: list[AugmentedBatch] = []

    def __call__(self, batch: AugmentedBatch) -> dict[str, torch.Tensor]:
        self.batches.append(batch)
        return {name: values.to(batch.positions.device)[batch.positions] for name, values in TEACHER_OUTPUTS.items()}


CPU = torch.device("cpu")


def make_client_data(
    targets: RecordingTargets | None = None, *, crop_flip: bool = False, mixup: float = 0.0, device: torch.device = CPU
) -> ClientData:
    """Build N random grey 6x6 images with labels."""
    rng = np.random.default_rng(1)
    return ClientData(
        torch.from_numpy(rng.integers(0, 256, (N, 1, 6, 6), dtype=np.uint8)).to(device),
        torch.from_numpy(rng.integers(0, CLASSES, N)).to(device),
        rng.permutation(100)[:N],
        Normalization(*(torch.full((1, 1, 1, 1), value, device=device) for value in (0.5, 0.25))),
        targets,
        crop_flip,
        mixup,
    )
