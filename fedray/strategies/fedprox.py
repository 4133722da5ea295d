"""FedProx: FedAvg with a penalty on the distance to the global model (Li et al., arXiv 1812.06127)."""

from typing import ClassVar, Literal

from pydantic import Field

from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class FedProx(Strategy):
    """Minimises CE + μ/2 · ‖w - w_t‖², w_t being the global model's parameters at the start of the round."""

    label: ClassVar[str] = "FedProx"
    color: ClassVar[str] = "#D55E00"
    name: Literal["fedprox"] = "fedprox"
    mu: float = Field(0.01, ge=0)
    """Weight μ of the penalty. The default is NIID-Bench's for CIFAR-10."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy and the proximal term for the proxy."""
        return {"proxy": [LossTerm("cross_entropy"), LossTerm("proximal", self.mu)]}
