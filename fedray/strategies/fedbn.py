"""FedBN: each client keeps its own batch normalisation (Li et al., arXiv 2102.07623)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from fedray.models.proxies import Proxy
from fedray.section import Section
from fedray.strategies.base import Strategy
from fedray.types import LossTerm, ParameterInfo

NO_BATCH_NORM = "it keeps BatchNorm layers on the clients, and the proxy has none: set proxy.norm: batch, or use fedavg"
"""The reason for which a proxy is refused."""


class FedBN(Strategy):
    """Minimises cross-entropy. The server averages all arrays but those of BatchNorm layers.

    A client keeps their scales, offsets and running statistics from round to round, and is evaluated with them. Other
    normalisation layers are averaged.
    """

    label: ClassVar[str] = "FedBN"
    color: ClassVar[str] = "#B4406A"
    keeps_state: ClassVar[bool] = True
    name: Literal["fedbn"] = "fedbn"

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy for the proxy."""
        return {"proxy": [LossTerm("cross_entropy")]}

    def is_shared(self, parameter: ParameterInfo) -> bool:
        """Return False for the arrays of BatchNorm layers: BatchNorm1d to 3d, SyncBatchNorm, timm's BatchNormAct2d."""
        return "BatchNorm" not in parameter.module_type

    def conflict(self, *, proxy: Proxy, **_: Section) -> str | None:
        """Refuse built-in proxies without BatchNorm layers; `problem` checks other proxies once they are built."""
        return NO_BATCH_NORM if proxy.has_batch_norm is False else None

    def problem(self, parameters: Sequence[ParameterInfo]) -> str | None:
        """Return a reason if the proxy has no BatchNorm layers."""
        return NO_BATCH_NORM if all(map(self.is_shared, parameters)) else None
