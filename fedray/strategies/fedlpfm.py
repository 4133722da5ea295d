"""Fed-LPFM: a frozen foundation model is distilled into each client's proxy (arXiv 2311.08479).

According to the paper λ balances cross-entropy and distillation, and a higher λ gives the teacher more weight. The
convex balance and T = 1 are our interpretation; `balance: additive` is the alternative.
"""

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedray.losses.distillation import KD, AnyDistillation, FunctionMatching
from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class FedLPFM(Strategy):
    """Minimises (1 - λ) · CE + λ · T² · KL(teacher ‖ proxy), or CE + λ · T² · KL(teacher ‖ proxy) if additive."""

    label: ClassVar[str] = "Fed-LPFM"
    color: ClassVar[str] = "#009E73"
    name: Literal["fedlpfm"] = "fedlpfm"
    balance: Literal["convex", "additive"] = "convex"
    """Weight of the cross-entropy: 1 - `lam` (`convex`) or 1 (`additive`)."""
    lam: float = Field(0.5, ge=0)
    """λ, the weight of the distillation loss; at most 1 if the balance is convex."""
    temperature: float = Field(1.0, gt=0)
    """Temperature T of the distillation loss."""
    loss: AnyDistillation = KD()
    """The distillation loss, T² · KL by default."""

    @field_validator("lam")
    @classmethod
    def _check_lam(cls, lam: float, info: ValidationInfo) -> float:
        if info.data.get("balance") == "convex" and lam > 1:
            raise ValueError("must be between 0 and 1 if balance is 'convex'")
        return lam

    @field_validator("loss")
    @classmethod
    def _check_function_matching(cls, loss: AnyDistillation, info: ValidationInfo) -> AnyDistillation:
        if isinstance(loss, FunctionMatching) and (info.data.get("lam"), info.data.get("balance")) != (1, "convex"):
            raise ValueError(
                "must be the whole objective, as it uses no labels: set strategy.lam: 1 and strategy.balance: convex"
            )
        return loss

    @property
    def proxy_view(self) -> bool:
        """True for function matching, whose teacher needs the proxy's views."""
        return isinstance(self.loss, FunctionMatching) and self.lam > 0

    @property
    def mixup(self) -> float:
        """Function matching's mixup; 0 for other losses."""
        return self.loss.mixup if isinstance(self.loss, FunctionMatching) else 0.0

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy and the distillation loss for the proxy."""
        label_weight = 1 - self.lam if self.balance == "convex" else 1.0
        distillation = self.loss.term(self.lam, self.temperature)
        return {"proxy": [LossTerm("cross_entropy", label_weight), distillation]}
