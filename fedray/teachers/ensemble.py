"""Combines the logits of a client's teachers into one target.

Logits of different teachers have different scales: CLIP's cosines times 100, SigLIP's log-odds, a classifier's
raw outputs. Before they are combined, each teacher's logits are centered over the classes and multiplied by
one factor, such that over the client's own examples their root mean square equals the first teacher's. The
scale and offset of a teacher therefore have no effect, and its relative confidence between images is preserved.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitEnsemble:
    """Combines the logits of one client's teachers."""

    scales: tuple[float, ...]  # of each teacher's centered logits
    weights: tuple[float, ...]  # of each teacher; they sum to 1
    probabilities: bool  # average probabilities instead of logits

    @classmethod
    def fit(cls, logits: Sequence[Tensor], labels: Tensor, combine: str) -> "LogitEnsemble":
        """Fit to each teacher's logits [n, classes] of the client's plain images, and their labels [n]."""
        sizes = [float(centered(own).square().mean().sqrt()) for own in logits]
        reference = next((size for size in sizes if size), 1.0)  # 0 where a teacher's logits are all equal
        scales = tuple(reference / size if size else 1.0 for size in sizes)
        accuracies = torch.tensor([float((own.argmax(1) == labels).double().mean()) for own in logits])
        weights = torch.ones(len(logits))
        if combine == "weighted" and accuracies.sum() > 0:
            weights = accuracies
        elif combine == "best":
            weights = torch.zeros(len(logits)).index_fill(0, accuracies.argmax(), 1.0)
        return cls(scales, tuple((weights / weights.sum()).tolist()), combine == "mean_probabilities")

    def __call__(self, logits: Sequence[Tensor]) -> Tensor:
        """Combine each teacher's logits, [B, classes], into [B, classes]. A single teacher's are returned as is."""
        if len(logits) == 1:
            return logits[0]
        scaled = [scale * centered(own) for scale, own in zip(self.scales, logits, strict=True)]
        if self.probabilities:
            weighted = [z.log_softmax(dim=-1) + math.log(w) for z, w in zip(scaled, self.weights, strict=True)]
            return torch.stack(weighted).logsumexp(dim=0)
        return sum((w * z for z, w in zip(scaled, self.weights, strict=True)), torch.zeros_like(scaled[0]))


def centered(logits: Tensor) -> Tensor:
    """Subtract each row's mean."""
    return logits - logits.mean(dim=-1, keepdim=True)
