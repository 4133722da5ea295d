"""FedAvg: local SGD on cross-entropy, weighted mean (McMahan et al., arXiv 1602.05629)."""

from typing import ClassVar, Literal

from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class FedAvg(Strategy):
    """Minimises cross-entropy; the server averages the proxies."""

    label: ClassVar[str] = "FedAvg"
    color: ClassVar[str] = "#0072B2"
    name: Literal["fedavg"] = "fedavg"

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy for the proxy."""
        return {"proxy": [LossTerm("cross_entropy")]}
