"""Centralised training: one client has the examples of all. The upper end of a comparison of federated algorithms."""

from typing import ClassVar, Literal

from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class Centralized(Strategy):
    """Minimises cross-entropy on the examples of all clients of the partition, as those of one client.

    That client trains in every round, whatever the participation. Metrics by client are those of the partition's.
    """

    label: ClassVar[str] = "centralised"
    color: ClassVar[str] = "#1F8A8A"
    pools_clients: ClassVar[bool] = True
    name: Literal["centralized"] = "centralized"

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy for the proxy."""
        return {"proxy": [LossTerm("cross_entropy")]}
