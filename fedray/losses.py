"""Losses as pure tensor functions. Logits are float [B, C], labels int64 [B], results scalar."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels."""
    return F.cross_entropy(logits, labels)


def kd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)), mean over the batch.

    Hinton, Vinyals and Dean (arXiv 1503.02531); T² keeps the gradient's size as T changes.
    No gradient flows into the teacher.
    """
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher.detach() / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def proximal(parameters: Sequence[Tensor], anchors: Sequence[Tensor]) -> Tensor:
    """½ ‖w - w_t‖² over all parameters: FedProx's term without its μ (arXiv 1812.06127)."""
    differences = torch._foreach_sub(list(parameters), list(anchors))
    return 0.5 * torch.stack([d.square().sum() for d in differences]).sum()
