"""Losses as pure tensor functions. Logits are float [B, C], labels int64 [B], results scalar."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels."""
    return F.cross_entropy(logits, labels)


def kl(target: Tensor, prediction: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(softmax(target/T) ‖ softmax(prediction/T)), mean over the batch; T² keeps gradients' size."""
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (target, prediction))
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def mutual(own: Tensor, peer: Tensor) -> Tensor:
    """KL(peer ‖ own); the peer's logits count as constants (FML, arXiv 2006.16765)."""
    return kl(peer.detach(), own)


# Distillation. All take (student [B, C], teacher [B, C], labels [B]); the teacher's logits are constants.


def kd(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float, direction: str = "forward") -> Tensor:
    """T² · KL(teacher ‖ student), or KL(student ‖ teacher) in reverse (arXiv 1503.02531)."""
    return kl(teacher, student, temperature) if direction == "forward" else kl(student, teacher, temperature)


def ls_kd(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float) -> Tensor:
    """kd of logits standardised over classes, z ← (z - mean) / std (arXiv 2403.01427)."""
    return kl(_standardised(teacher), _standardised(student), temperature)


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, alpha: float, beta: float) -> Tensor:
    """α·T²·KL of [p_y, 1 - p_y] + β·T²·KL over the other classes alone (arXiv 2203.08679)."""
    student, teacher = student / temperature, teacher / temperature
    true = F.one_hot(labels, student.shape[1]).bool()
    targeted = _binary_kl(_log_odds(teacher, true), _log_odds(student, true))
    others = _masked_kl(teacher, student, ~true)
    return (alpha * targeted + beta * others).mean() * temperature**2


def dist(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float, beta: float, gamma: float) -> Tensor:
    """T² · (β · mean over rows of 1 - ρ + γ · mean over columns of 1 - ρ), ρ Pearson's correlation of
    the probabilities (arXiv 2205.10536). A batch of one has no columns to correlate."""
    q, p = (torch.softmax(logits / temperature, dim=1) for logits in (student, teacher))
    loss = beta * (1 - _correlation(q, p)).mean()
    if len(q) > 1:
        loss = loss + gamma * (1 - _correlation(q.T, p.T)).mean()
    return loss * temperature**2


def rld(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    beta: float,
    confidence_temperature: float,
) -> Tensor:
    """α·Tc²·KL([p_max, 1 - p_max] ‖ [q_y, 1 - q_y]) + β·T²·KL over the classes that the teacher ranks
    below the true one (arXiv 2408.07703). Where there is none, the second part is zero."""
    true = F.one_hot(labels, student.shape[1]).bool()
    top = F.one_hot(teacher.argmax(1), student.shape[1]).bool()
    confidence = _binary_kl(
        _log_odds(teacher / confidence_temperature, top), _log_odds(student / confidence_temperature, true)
    )
    below = teacher < teacher.gather(1, labels[:, None])
    refined = _masked_kl(teacher / temperature, student / temperature, below)
    return (alpha * confidence * confidence_temperature**2 + beta * refined * temperature**2).mean()


def mse(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float = 1.0) -> Tensor:  # noqa: ARG001
    """Mean over batch and classes of (s - t)², each row of logits less its mean: a shift says nothing."""
    return F.mse_loss(student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True))


def cosine(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float = 1.0) -> Tensor:  # noqa: ARG001
    """Mean over the batch of 1 - cos(s, t), for features [B, d] of both."""
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


def feature_mse(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float = 1.0) -> Tensor:  # noqa: ARG001
    """Mean over batch and features of (s - t)², each t [d] brought to mean square 1: its length says nothing."""
    return F.mse_loss(student, F.normalize(teacher, dim=1) * teacher.shape[1] ** 0.5)


def _standardised(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def _log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """log(p / (1 - p)) of one chosen class in each row, [B]: log p - log of the others' sum."""
    others = logits.masked_fill(chosen, -torch.inf).logsumexp(1)
    return logits.masked_fill(~chosen, -torch.inf).logsumexp(1) - others


def _binary_kl(target: Tensor, prediction: Tensor) -> Tensor:
    """KL of two Bernoullis by their log-odds, [B]; exact where p is all but 0 or 1."""
    p = torch.sigmoid(target)
    return p * (F.logsigmoid(target) - F.logsigmoid(prediction)) + (1 - p) * (
        F.logsigmoid(-target) - F.logsigmoid(-prediction)
    )


def _masked_kl(target: Tensor, prediction: Tensor, kept: Tensor) -> Tensor:
    """KL(softmax(target) ‖ softmax(prediction)) over the kept classes of each row, [B]; 0 where none is."""
    lowest = torch.finfo(target.dtype).min
    log_p, log_q = (F.log_softmax(z.masked_fill(~kept, lowest), dim=1) for z in (target, prediction))
    return torch.where(kept, log_p.exp() * (log_p - log_q), 0.0).sum(1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of a with that of b."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)


def proximal(parameters: Sequence[Tensor], anchors: Sequence[Tensor]) -> Tensor:
    """½ ‖w - w_t‖² over all parameters: FedProx's term without its μ (arXiv 1812.06127)."""
    differences = torch._foreach_sub(list(parameters), list(anchors))
    return 0.5 * torch.stack([d.square().sum() for d in differences]).sum()
