"""The global model as the teacher: FedGKD (Yao et al., arXiv 2107.00051) with a buffer of one global model."""

from typing import ClassVar, Literal

from fedray.losses.teacher_term import Balance
from fedray.strategies.base import Strategy
from fedray.training.context import ClientContext, ClientStart
from fedray.types import LossTerm


class GlobalTeacher(Balance, Strategy):
    """Minimises CE + λ · T² · KL(global ‖ proxy), or (1 - λ) · CE + λ · T² · KL(global ‖ proxy) if convex.

    The global model is the received one, in evaluation mode. This strategy is a control for Fed-LPFM with the same λ,
    T and balance: its teacher is not a foundation model. The defaults of λ and T are our choice.
    """

    label: ClassVar[str] = "Global teacher"
    color: ClassVar[str] = "#7570B3"
    frozen_models: ClassVar[tuple[str, ...]] = ("global",)
    name: Literal["global_teacher"] = "global_teacher"
    balance: Literal["convex", "additive"] = "additive"
    """Weight of the cross-entropy: 1 - `lam` (`convex`) or 1 (`additive`)."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy and distillation from the global model for the proxy."""
        distillation = LossTerm("global_kd", self.lam, {"temperature": self.temperature})
        return {"proxy": [LossTerm("cross_entropy", self.label_weight), distillation]}

    def client_init(self, client: ClientContext) -> ClientStart:
        """Return the global model."""
        return ClientStart(frozen={"global": client.received})
