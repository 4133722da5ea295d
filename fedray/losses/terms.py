"""An objective is a weighted sum of terms, and a term is a loss applied to one batch's `LossInputs`.

To add a loss: a pure function in `functional.py`, and one line in `TERMS` that feeds it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedray.losses import functional
from fedray.losses.distillation import REQUIRED_OUTPUT
from fedray.types import LossTerm


@dataclass(frozen=True)
class LossInputs:
    """What a term may look at: one batch, seen by one of the client's models."""

    model: str  # which of the client's models this objective trains
    logits: Mapping[str, Tensor]  # float32 [B, C] of each of the client's models
    labels: Tensor  # [B]
    targets: Mapping[str, Tensor]  # the frozen teacher's `logits` [B, C] or `features` [B, d]
    projected: Tensor | None  # [B, d], the model's features in the space of the teacher's
    parameters: Sequence[Tensor]  # being trained
    reference_params: Sequence[Tensor]  # the same, as they were when the round began; empty where no term is anchored

    @property
    def own_logits(self) -> Tensor:
        return self.logits[self.model]


def _distillation(loss: Callable[..., Tensor], uses: str) -> Callable[..., Tensor]:
    def term(step: LossInputs, **options: Any) -> Tensor:
        own = step.own_logits if uses == "logits" else step.projected
        return loss(own, step.targets[uses].detach(), step.labels, **options)

    return term


def _mutual(step: LossInputs) -> Tensor:
    (peer,) = (logits for model, logits in step.logits.items() if model != step.model)
    return functional.mutual(step.own_logits, peer)


DISTILLATIONS: Mapping[str, Callable[..., Tensor]] = {
    "kd": functional.kd,
    "ls_kd": functional.ls_kd,
    "dkd": functional.dkd,
    "dist": functional.dist,
    "rld": functional.rld,
    "mse": functional.mse,
    "function_matching": functional.kd,
    "cosine": functional.cosine,
    "feature_mse": functional.feature_mse,
}

TERMS: Mapping[str, Callable[..., Tensor]] = {
    **{name: _distillation(loss, REQUIRED_OUTPUT[name]) for name, loss in DISTILLATIONS.items()},
    "cross_entropy": lambda step: functional.cross_entropy(step.own_logits, step.labels),
    "mutual": _mutual,
    "proximal": lambda step: functional.proximal(step.parameters, step.reference_params),
}


def uses_reference(terms: Sequence[LossTerm]) -> bool:
    """Whether a term looks at the weights that the client received."""
    return any(term.loss == "proximal" for term in terms)


def evaluate(terms: Sequence[LossTerm], step: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective's value for one batch, and each term's own value before its weight."""
    values = {term.loss: TERMS[term.loss](step, **term.options) for term in terms}
    total = sum((term.weight * values[term.loss] for term in terms[1:]), terms[0].weight * values[terms[0].loss])
    return total, {name: value.detach() for name, value in values.items()}
