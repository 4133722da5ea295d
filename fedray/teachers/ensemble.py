"""From the logits of a client's teachers to the logits that it learns from.

Teachers speak on different scales: CLIP's cosines times 100, SigLIP's log-odds, a classifier's raw
outputs. Before they are combined, each teacher's logits are centred over the classes and multiplied
by one number, so that over the client's own examples their root mean square is the first teacher's.
A teacher's own scale and offset thus change nothing, and how sure it is of one image beside another
stays as it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitEnsemble:
    """How one client's teachers become one."""

    scales: tuple[float, ...]  # of each teacher's centred logits
    weights: tuple[float, ...]  # of each teacher, their sum is 1
    probabilities: bool  # average probabilities, and not logits

    @classmethod
    def fit(cls, own: Sequence[Tensor], labels: Tensor, combine: str) -> "LogitEnsemble":
        """From each teacher's logits [n, classes] for the client's own plain images, and their labels [n]."""
        sizes = [float(centered(logits).square().mean().sqrt()) for logits in own]
        reference = next((size for size in sizes if size), 1.0)  # a teacher that tells no classes apart has none
        scales = tuple(reference / size if size else 1.0 for size in sizes)
        right = torch.tensor([float((logits.argmax(1) == labels).double().mean()) for logits in own])
        weights = torch.ones(len(own))
        if combine == "weighted" and right.sum() > 0:
            weights = right
        elif combine == "best":
            weights = torch.zeros(len(own)).index_fill(0, right.argmax(), 1.0)
        return cls(scales, tuple((weights / weights.sum()).tolist()), combine == "mean_probabilities")

    def __call__(self, logits: Sequence[Tensor]) -> Tensor:
        """Each [B, classes] -> [B, classes]. A single teacher's logits stay as they are."""
        if len(logits) == 1:
            return logits[0]
        alike = [scale * centered(z) for scale, z in zip(self.scales, logits, strict=True)]
        if self.probabilities:
            likely = [z.log_softmax(dim=-1) + math.log(w) for z, w in zip(alike, self.weights, strict=True)]
            return torch.stack(likely).logsumexp(dim=0)
        return sum((w * z for z, w in zip(alike, self.weights, strict=True)), torch.zeros_like(alike[0]))


def centered(logits: Tensor) -> Tensor:
    """Each row less its mean."""
    return logits - logits.mean(dim=-1, keepdim=True)
