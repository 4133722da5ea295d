"""FedProx: FedAvg that stays near the weights it received (Li et al., arXiv 1812.06127)."""

from typing import ClassVar, Literal

from pydantic import Field

from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class FedProx(Strategy):
    """Minimises cross-entropy + μ/2 · ‖w - w_t‖². The default μ is NIID-Bench's for CIFAR-10."""

    label: ClassVar[str] = "FedProx"
    color: ClassVar[str] = "#D55E00"
    name: Literal["fedprox"] = "fedprox"
    mu: float = Field(0.01, ge=0)

    def objectives(self) -> dict[str, list[LossTerm]]:
        return {"proxy": [LossTerm("cross_entropy"), LossTerm("proximal", self.mu)]}
