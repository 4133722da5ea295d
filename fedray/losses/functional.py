"""Losses as pure functions of tensors. Logits are float [B, C], labels int64 [B], results scalars."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the batch of -log softmax(logits)[label]."""
    return F.cross_entropy(logits, labels)


def kl(target: Tensor, prediction: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T² · KL(softmax(target / T) ‖ softmax(prediction / T)), averaged over the batch.

    The factor T² keeps the size of the gradients independent of T.
    """
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (target, prediction))
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def mutual(student: Tensor, peer: Tensor) -> Tensor:
    """Return KL(peer ‖ student) for logits; the peer gets no gradient (FML, arXiv 2006.16765)."""
    return kl(peer.detach(), student)


def proximal(parameters: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Return ½ · ‖w - w_ref‖² over all parameters: FedProx's term without its factor μ (arXiv 1812.06127)."""
    differences = torch._foreach_sub(list(parameters), list(reference))
    return 0.5 * torch.stack([d.square().sum() for d in differences]).sum()


def linear(parameters: Sequence[Tensor], constants: Sequence[Tensor]) -> Tensor:
    """Return Σ ⟨a, w⟩ over all parameters w, whose gradient is a: SCAFFOLD's and FedDyn's correction."""
    products = torch._foreach_mul(list(parameters), list(constants))
    return torch.stack([product.sum() for product in products]).sum()


def contrastive(features: Tensor, positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Return the mean of -log(e^(s₊/τ) / (e^(s₊/τ) + e^(s₋/τ))): MOON's term without its factor μ (arXiv 2103.16257).

    s₊ and s₋ are the cosines of the features with the positive and with the negative ones, all [B, d].
    """
    attraction, repulsion = (F.cosine_similarity(features, other, dim=1) for other in (positive, negative))
    return F.softplus((repulsion - attraction) / temperature).mean()


# Distillation losses take (student [B, C], teacher [B, C], labels [B]). The teacher's outputs have no gradient.


def kd(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float, direction: str = "forward") -> Tensor:
    """Return T² · KL(teacher ‖ student), or T² · KL(student ‖ teacher) if reversed (arXiv 1503.02531)."""
    return kl(teacher, student, temperature) if direction == "forward" else kl(student, teacher, temperature)


def ls_kd(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float) -> Tensor:
    """Return `kd` of logits standardised over the classes, z ← (z - mean) / std (arXiv 2403.01427)."""
    return kl(_standardized(teacher), _standardized(student), temperature)


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, alpha: float, beta: float) -> Tensor:
    """Return α · T² · KL of [p_y, 1 - p_y] + β · T² · KL over the classes other than y (arXiv 2203.08679)."""
    is_label = F.one_hot(labels, student.shape[1]).bool()
    target_kl = _binary_kl(_log_odds(teacher / temperature, is_label), _log_odds(student / temperature, is_label))
    non_target_kl = _non_target_kl(student, teacher, labels, temperature)
    return (alpha * target_kl + beta * non_target_kl).mean() * temperature**2


def not_true(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Return T² · KL(teacher ‖ student) over the classes other than y, as in `dkd` (FedNTD, arXiv 2106.03097)."""
    return _non_target_kl(student, teacher, labels, temperature).mean() * temperature**2


def dist(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float, beta: float, gamma: float) -> Tensor:
    """Return T² · (β · mean over rows of (1 - ρ) + γ · mean over columns of (1 - ρ)) (arXiv 2205.10536).

    ρ is Pearson's correlation of student's and teacher's probabilities. A batch of one has no column term.
    """
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
    """Return α · Tc² · KL([p_max, 1 - p_max] ‖ [q_y, 1 - q_y]) + β · T² · KL over fewer classes (arXiv 2408.07703).

    p is the teacher's, q the student's probability, y the label. The second KL is over the classes that the teacher
    ranks below y; it is 0 if there is none.
    """
    is_label = F.one_hot(labels, student.shape[1]).bool()
    is_top = F.one_hot(teacher.argmax(1), student.shape[1]).bool()
    confidence_kl = _binary_kl(
        _log_odds(teacher / confidence_temperature, is_top), _log_odds(student / confidence_temperature, is_label)
    )
    is_below = teacher < teacher.gather(1, labels[:, None])
    refined_kl = _masked_kl(teacher / temperature, student / temperature, is_below)
    return (alpha * confidence_kl * confidence_temperature**2 + beta * refined_kl * temperature**2).mean()


def mse(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float = 1.0) -> Tensor:  # noqa: ARG001
    """Return the mean over batch and classes of (s - t)², for logits s and t less their row means."""
    return F.mse_loss(student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True))


def cosine(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float = 1.0) -> Tensor:  # noqa: ARG001
    """Return the mean over the batch of 1 - cos(s, t), for features s and t [B, d]."""
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


def feature_mse(student: Tensor, teacher: Tensor, _: Tensor, *, temperature: float = 1.0) -> Tensor:  # noqa: ARG001
    """Return the mean over batch and features of (s - t)², for features [B, d]; rows of t have mean square 1."""
    return F.mse_loss(student, F.normalize(teacher, dim=1) * teacher.shape[1] ** 0.5)


def _standardized(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def _log_odds(logits: Tensor, mask: Tensor) -> Tensor:
    """Return log(p / (1 - p)) [B] of the class that `mask` [B, C] selects in each row."""
    others = logits.masked_fill(mask, -torch.inf).logsumexp(1)
    return logits.masked_fill(~mask, -torch.inf).logsumexp(1) - others


def _binary_kl(target: Tensor, prediction: Tensor) -> Tensor:
    """Return the KL [B] of two Bernoulli distributions, from their log-odds [B]; accurate also near 0 and 1."""
    p = torch.sigmoid(target)
    return p * (F.logsigmoid(target) - F.logsigmoid(prediction)) + (1 - p) * (
        F.logsigmoid(-target) - F.logsigmoid(-prediction)
    )


def _non_target_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return KL(softmax(teacher / T) ‖ softmax(student / T)) [B] over the classes other than the label."""
    is_label = F.one_hot(labels, student.shape[1]).bool()
    return _masked_kl(teacher / temperature, student / temperature, ~is_label)


def _masked_kl(target: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
    """Return KL(softmax(target) ‖ softmax(prediction)) [B] over the classes in `mask` [B, C]; 0 for an empty row."""
    lowest = torch.finfo(target.dtype).min
    log_p, log_q = (F.log_softmax(z.masked_fill(~mask, lowest), dim=1) for z in (target, prediction))
    return torch.where(mask, log_p.exp() * (log_p - log_q), 0.0).sum(1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation [rows] of each row of `a` with the same row of `b`."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)
