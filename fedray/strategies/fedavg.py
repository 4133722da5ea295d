"""FedAvg: local SGD on cross-entropy, weighted mean (McMahan et al., arXiv 1602.05629)."""

from typing import Literal

from fedray.strategies.base import Strategy
from fedray.types import Term


class FedAvg(Strategy):
    """Minimises cross-entropy; the server averages the proxies."""

    name: Literal["fedavg"] = "fedavg"

    def objectives(self) -> dict[str, list[Term]]:
        return {"proxy": [Term("cross_entropy")]}
