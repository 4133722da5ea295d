"""FedRep: clients share the body of the model, and each has a head of its own (Collins et al., arXiv 2102.07078)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from fedray.strategies.base import Strategy
from fedray.training.phases import Phase
from fedray.types import LossTerm, ParameterInfo


class FedRep(Strategy):
    """Minimises cross-entropy over the head alone, then over the body alone; the server averages the bodies.

    The head is the last linear layer. The body is trained for the epochs or steps of `training`.
    """

    label: ClassVar[str] = "FedRep"
    color: ClassVar[str] = "#8C564B"
    keeps_state: ClassVar[bool] = True
    name: Literal["fedrep"] = "fedrep"
    head_epochs: int = Field(1, ge=1)
    """Epochs over the head, before those over the body. The default is our choice."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy, in both phases."""
        return {"proxy": [LossTerm("cross_entropy")]}

    def phases(self) -> Sequence[Phase]:
        """The head, then the body."""
        return [
            Phase(epochs=self.head_epochs, trainable=lambda parameter: parameter.is_head),
            Phase(trainable=lambda parameter: not parameter.is_head),
        ]

    def is_shared(self, parameter: ParameterInfo) -> bool:
        """All but the head."""
        return not parameter.is_head
