"""Local only: clients never exchange anything. The lower end of a comparison of federated algorithms."""

from typing import ClassVar, Literal

from fedray.aggregation.aggregators import Aggregator, Mean
from fedray.aggregation.server_optimizers import ServerOptimizer, ServerSGD
from fedray.section import Section
from fedray.strategies.base import Strategy
from fedray.types import LossTerm, ParameterInfo


class Local(Strategy):
    """Minimises cross-entropy on each client alone, from the same initial weights; there is no global model.

    A client trains in the rounds in which it is drawn, and continues from its own weights.
    """

    label: ClassVar[str] = "local only"
    color: ClassVar[str] = "#9C5F5F"
    keeps_state: ClassVar[bool] = True
    name: Literal["local"] = "local"

    def conflict(self, *, server: ServerOptimizer, aggregation: Aggregator, **_: Section) -> str | None:
        """Refuse aggregation rules and server optimizers other than the defaults: no update reaches the server."""
        if not isinstance(aggregation, Mean):
            return f"its clients send nothing, and aggregation.name is '{aggregation.name}'; set it to mean"
        if not isinstance(server, ServerSGD):
            return f"its clients send nothing, and server.name is '{server.name}'; set it to sgd"
        return None

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy for the proxy."""
        return {"proxy": [LossTerm("cross_entropy")]}

    def is_shared(self, parameter: ParameterInfo) -> bool:  # noqa: ARG002
        """Return False: nothing is shared."""
        return False
