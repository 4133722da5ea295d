"""An objective is a weighted sum of loss terms, computed from the `LossInputs` of one batch.

To add a loss: a pure function in `functional.py`, and one line in `TERMS` that passes it its inputs. A strategy outside
the package gives its `LossTerm` the function itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedray.losses import functional
from fedray.losses.distillation import REQUIRED_OUTPUT
from fedray.types import LossTerm


@dataclass(frozen=True)
class FrozenOutputs:
    """Outputs of a frozen model for one batch, without gradient."""

    logits: Tensor  # float32 [B, C]
    features: Tensor | None  # float32 [B, d], inputs of the last linear layer, if the strategy uses features


@dataclass(frozen=True)
class LossInputs:
    """The inputs of one model's loss terms for one batch."""

    model: str  # the model that the objective trains, by its name on the client
    logits: Mapping[str, Tensor]  # float32 [B, C] of each of the client's models
    labels: Tensor  # int64 [B]
    targets: Mapping[str, Tensor]  # teacher outputs: `logits` [B, C] or `features` [B, d]
    projected: Tensor | None  # [B, d], the model's features in the space of the teacher's
    parameters: Sequence[Tensor]  # the model's trained parameters, without those of a projection
    reference_params: Sequence[Tensor]  # their values at the start of the round; empty if no term needs them
    constants: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    """The strategy's groups of constants, each with one tensor per trained parameter of the proxy."""
    features: Tensor | None = None
    """float32 [B, d], inputs of the proxy's last linear layer, if the strategy uses features."""
    frozen: Mapping[str, FrozenOutputs] = field(default_factory=dict)
    """Outputs of the strategy's frozen models, by name."""

    @property
    def model_logits(self) -> Tensor:
        """[B, C], the logits of the model that the objective trains."""
        return self.logits[self.model]


def _distillation(loss: Callable[..., Tensor], output_kind: str) -> Callable[..., Tensor]:
    def term(inputs: LossInputs, **options: float | str) -> Tensor:
        student = inputs.model_logits if output_kind == "logits" else inputs.projected
        return loss(student, inputs.targets[output_kind].detach(), inputs.labels, **options)

    return term


def _mutual(inputs: LossInputs) -> Tensor:
    (peer,) = (logits for model, logits in inputs.logits.items() if model != inputs.model)
    return functional.mutual(inputs.model_logits, peer)


def _contrastive(inputs: LossInputs, temperature: float) -> Tensor:
    positive, negative = (inputs.frozen[name].features for name in ("global", "previous"))
    assert inputs.features is not None
    assert positive is not None
    assert negative is not None, "a strategy with this term uses features"
    return functional.contrastive(inputs.features, positive, negative, temperature)


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
"""The function of each distillation loss, by its name in the spec."""

TERMS: Mapping[str, Callable[..., Tensor]] = {
    **{name: _distillation(loss, REQUIRED_OUTPUT[name]) for name, loss in DISTILLATIONS.items()},
    "cross_entropy": lambda inputs: functional.cross_entropy(inputs.model_logits, inputs.labels),
    "mutual": _mutual,
    "linear": lambda inputs, constant: functional.linear(inputs.parameters, inputs.constants[constant]),
    "contrastive": _contrastive,
    "not_true": lambda inputs, temperature: functional.not_true(
        inputs.model_logits, inputs.frozen["global"].logits, inputs.labels, temperature=temperature
    ),
    "global_kd": lambda inputs, temperature: functional.kl(
        inputs.frozen["global"].logits, inputs.model_logits, temperature
    ),
    "proximal": lambda inputs: functional.proximal(inputs.parameters, inputs.reference_params),
}
"""Each loss term as a function of `LossInputs` and the term's options, by its name."""


def uses_reference(terms: Sequence[LossTerm]) -> bool:
    """Whether a term needs the parameters from the start of the round."""
    return any(term.loss == "proximal" or term.function is not None for term in terms)


def evaluate_objective(terms: Sequence[LossTerm], inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the objective's value for one batch, and each term's value before its weight, without gradient."""
    values = {term.loss: (term.function or TERMS[term.loss])(inputs, **term.options) for term in terms}
    total = sum((term.weight * values[term.loss] for term in terms[1:]), terms[0].weight * values[terms[0].loss])
    return total, {name: value.detach() for name, value in values.items()}
