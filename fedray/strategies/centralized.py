"""Centralised training: one client has the examples of all. The upper end of a comparison of federated algorithms."""

from typing import ClassVar, Literal

from fedray.aggregation.aggregators import Aggregator
from fedray.section import Section
from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class Centralized(Strategy):
    """Minimises cross-entropy on the examples of all clients of the partition, as those of one client.

    That client trains in every round, whatever the participation. Metrics by client refer to the partition's clients.
    """

    label: ClassVar[str] = "centralised"
    color: ClassVar[str] = "#1F8A8A"
    pools_clients: ClassVar[bool] = True
    name: Literal["centralized"] = "centralized"

    def conflict(self, *, aggregation: Aggregator, **_: Section) -> str | None:
        """A rule for several clients has nothing to combine."""
        if aggregation.problem(1) is None:
            return None
        return f"it has one client, and aggregation.name is '{aggregation.name}', which needs more; set it to mean"

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy for the proxy."""
        return {"proxy": [LossTerm("cross_entropy")]}
