"""Fed-LPFM: a frozen foundation model teaches each client's proxy (arXiv 2311.08479).

The paper says that λ balances cross-entropy and distillation, higher meaning more teacher. That
the balance is convex, and T = 1, is our reading; `balance: additive` is the other one.
"""

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedray.losses.distillation import KD, AnyDistillation, FunctionMatching
from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class FedLPFM(Strategy):
    """Minimises (1-λ) · CE + λ · T² · KL(teacher ‖ proxy), or CE + λ · T² · KL when additive.

    `loss` puts another distillation in the place of T² · KL.
    """

    label: ClassVar[str] = "Fed-LPFM"
    color: ClassVar[str] = "#009E73"
    name: Literal["fedlpfm"] = "fedlpfm"
    balance: Literal["convex", "additive"] = "convex"
    lam: float = Field(0.5, ge=0)
    temperature: float = Field(1.0, gt=0)
    loss: AnyDistillation = KD()

    @field_validator("lam")
    @classmethod
    def _convex_means_at_most_one(cls, lam: float, info: ValidationInfo) -> float:
        if info.data.get("balance") == "convex" and lam > 1:
            raise ValueError("must be between 0 and 1 where balance is 'convex'")
        return lam

    @field_validator("loss")
    @classmethod
    def _function_matching_has_no_labels(cls, loss: AnyDistillation, info: ValidationInfo) -> AnyDistillation:
        if isinstance(loss, FunctionMatching) and (info.data.get("lam"), info.data.get("balance")) != (1, "convex"):
            raise ValueError(
                "it uses no labels, so it must be the whole objective: set strategy.lam: 1 and strategy.balance: convex"
            )
        return loss

    @property
    def proxy_view(self) -> bool:
        return isinstance(self.loss, FunctionMatching) and self.lam > 0

    @property
    def mixup(self) -> float:
        return self.loss.mixup if isinstance(self.loss, FunctionMatching) else 0.0

    def objectives(self) -> dict[str, list[LossTerm]]:
        keep = 1 - self.lam if self.balance == "convex" else 1.0
        distillation = LossTerm(self.loss.name, self.lam, {"temperature": self.temperature, **self.loss.options})
        return {"proxy": [LossTerm("cross_entropy", keep), distillation]}
