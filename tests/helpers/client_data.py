"""A small shard, and a teacher that is looked up."""

import numpy as np
import torch

from fedray.training.batches import AugmentedBatch, ClientData, Normalization

N, CLASSES = 23, 3
WIDTH = 4
RNG = np.random.default_rng(2)
TAUGHT = {
    "logits": torch.from_numpy(RNG.normal(size=(N, CLASSES)).astype(np.float32)),
    "features": torch.from_numpy(RNG.normal(size=(N, WIDTH)).astype(np.float32)),
}


class Told:
    """Lessons that look up what is taught, and remember what they were asked."""

    def __init__(self) -> None:
        self.seen: list[AugmentedBatch] = []

    def __call__(self, seen: AugmentedBatch) -> dict[str, torch.Tensor]:
        self.seen.append(seen)
        return {name: answers.to(seen.chosen.device)[seen.chosen] for name, answers in TAUGHT.items()}


CPU = torch.device("cpu")


def make_shard(
    targets: Told | None = None, *, crop_flip: bool = False, mixup: float = 0.0, device: torch.device = CPU
) -> ClientData:
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
