"""FedNTD: not-true distillation from the global model preserves its knowledge of other classes (arXiv 2106.03097)."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from fedray.losses.distillation import FunctionMatching
from fedray.losses.teacher_term import TeacherTerm
from fedray.strategies.base import Strategy
from fedray.training.context import ClientContext, ClientStart
from fedray.types import LossTerm


class FedNTD(Strategy):
    """Minimises CE + β · τ² · KL(global ‖ proxy), the KL being over the classes other than the true one.

    The global model is the received one, in evaluation mode. The defaults are those of the authors' code
    (Lee-Gihun/FedNTD).
    """

    label: ClassVar[str] = "FedNTD"
    color: ClassVar[str] = "#777700"
    frozen_models: ClassVar[tuple[str, ...]] = ("global",)
    name: Literal["fedntd"] = "fedntd"
    beta: float = Field(1.0, ge=0)
    """Weight β of the distillation term."""
    temperature: float = Field(1.0, gt=0)
    """Temperature τ of the distillation term."""

    @field_validator("distillation")
    @classmethod
    def _check_labels(cls, distillation: TeacherTerm | None) -> TeacherTerm | None:
        if distillation is not None and isinstance(distillation.loss, FunctionMatching):
            raise ValueError("must not use the loss function_matching, which has no labels; fedntd needs them")
        return distillation

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy and not-true distillation for the proxy."""
        not_true = LossTerm("not_true", self.beta, {"temperature": self.temperature})
        return {"proxy": [LossTerm("cross_entropy"), not_true]}

    def client_init(self, client: ClientContext) -> ClientStart:
        """Return the global model."""
        return ClientStart(frozen={"global": client.received})
