"""The teacher's term in the proxy's objective, which Fed-LPFM has and which any other strategy may add."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedray.losses.distillation import KD, AnyDistillation, FunctionMatching
from fedray.section import Section
from fedray.types import LossTerm


class Balance(Section):
    """The weights of cross-entropy and distillation in an objective."""

    balance: Literal["convex", "additive"] = "convex"
    """Weight of the cross-entropy: 1 - `lam` (`convex`) or 1 (`additive`)."""
    lam: float = Field(0.5, ge=0)
    """λ, the weight of the distillation loss; at most 1 if the balance is convex."""
    temperature: float = Field(1.0, gt=0)
    """Temperature T of the distillation loss."""

    @field_validator("lam")
    @classmethod
    def _check_lam(cls, lam: float, info: ValidationInfo) -> float:
        if info.data.get("balance") == "convex" and lam > 1:
            raise ValueError("must be between 0 and 1 if balance is 'convex'")
        return lam

    @property
    def label_weight(self) -> float:
        """Weight of the cross-entropy."""
        return 1 - self.lam if self.balance == "convex" else 1.0


class TeacherTerm(Balance):
    """The term of a foundation model in the proxy's objective: a distillation loss with its weight."""

    path: ClassVar[str] = "strategy.distillation"
    """The section's place in the spec, for error messages."""
    loss: AnyDistillation = KD()
    """The distillation loss, T² · KL by default."""

    @field_validator("loss")
    @classmethod
    def _check_function_matching(cls, loss: AnyDistillation, info: ValidationInfo) -> AnyDistillation:
        if isinstance(loss, FunctionMatching) and (info.data.get("lam"), info.data.get("balance")) != (1, "convex"):
            raise ValueError(
                "must be the whole objective, as it uses no labels: "
                f"set {cls.path}.lam: 1 and {cls.path}.balance: convex"
            )
        return loss

    def added_to(self, terms: Sequence[LossTerm]) -> list[LossTerm]:
        """Return an objective with the distillation loss, in which `balance` sets the weight of the cross-entropy."""
        weights = {"cross_entropy": self.label_weight}
        balanced = [replace(term, weight=term.weight * weights.get(term.loss, 1.0)) for term in terms]
        return [*balanced, self.loss.term(self.lam, self.temperature)]

    @property
    def proxy_view(self) -> bool:
        """True for function matching, whose teacher needs the proxy's views."""
        return isinstance(self.loss, FunctionMatching) and self.lam > 0

    @property
    def mixup(self) -> float:
        """Function matching's mixup; 0 for other losses."""
        return self.loss.mixup if isinstance(self.loss, FunctionMatching) else 0.0
