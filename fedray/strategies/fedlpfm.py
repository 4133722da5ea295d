"""Fed-LPFM: a frozen foundation model is distilled into each client's proxy (arXiv 2311.08479).

According to the paper λ balances cross-entropy and distillation, and a higher λ gives the teacher more weight. The
convex balance and T = 1 are our interpretation; `balance: additive` is the alternative.
"""

from typing import ClassVar, Literal

from fedray.losses.teacher_term import TeacherTerm
from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class FedLPFM(TeacherTerm, Strategy):
    """Minimises (1 - λ) · CE + λ · T² · KL(teacher ‖ proxy), or CE + λ · T² · KL(teacher ‖ proxy) if additive."""

    label: ClassVar[str] = "Fed-LPFM"
    color: ClassVar[str] = "#009E73"
    path: ClassVar[str] = "strategy"
    refuses_distillation: ClassVar[str] = (
        "must be null for fedlpfm, which has these fields itself: set strategy.lam, balance, temperature and loss"
    )
    name: Literal["fedlpfm"] = "fedlpfm"

    @property
    def teacher_term(self) -> TeacherTerm:
        """The strategy's own fields."""
        return self

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy and the distillation loss for the proxy."""
        return {"proxy": self.added_to([LossTerm("cross_entropy")])}
