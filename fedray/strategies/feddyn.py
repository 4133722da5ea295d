"""FedDyn: a dynamic regulariser makes the clients' optima agree with the global one (Acar et al., arXiv 2111.04263)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fedray.aggregation.aggregators import Aggregator, Mean
from fedray.aggregation.messages import Aggregate
from fedray.section import Section
from fedray.strategies.base import RoundInfo, Strategy
from fedray.training.context import ClientContext, ClientResult, ClientStart
from fedray.types import ArrayGroups, LossTerm, ParameterInfo, ServerState, Weights


class FedDyn(Strategy):
    """Minimises CE - ⟨gᵢ, w⟩ + α/2 · ‖w - x‖², x being the global model and gᵢ the client's estimate of its gradient.

    After training to yᵢ: gᵢ ← gᵢ - α(yᵢ - x). The server keeps h ← h - α/N · Σ (yᵢ - x), summed over the cohort and
    divided by the number N of all clients, and the global model becomes mean(yᵢ) - h/α. gᵢ and h start at 0.
    """

    label: ClassVar[str] = "FedDyn"
    color: ClassVar[str] = "#C08048"
    keeps_state: ClassVar[bool] = True
    name: Literal["feddyn"] = "feddyn"
    weighting: Literal["uniform"] = "uniform"
    """Weight of an update in the server's mean: `uniform`, as h is the sum of all updates with equal weights."""
    alpha: float = Field(0.1, gt=0)
    """Weight α of the regulariser. Reproductions of the paper use 0.1; FedLab's on CIFAR-10 uses 0.01."""

    def conflict(self, *, aggregation: Aggregator, **_: Section) -> str | None:
        """Refuse aggregation rules other than the mean: h is minus the mean of all gᵢ only if no update is changed."""
        if isinstance(aggregation, Mean):
            return None
        return (
            f"its server adds up the updates of all clients as they are, and aggregation.name is "
            f"'{aggregation.name}', which leaves out or changes some; set it to mean"
        )

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy, a linear term whose gradient is -gᵢ, and the proximal term."""
        linear = LossTerm("linear", options={"constant": "correction"})
        return {"proxy": [LossTerm("cross_entropy"), linear, LossTerm("proximal", self.alpha)]}

    def client_init(self, client: ClientContext) -> ClientStart:
        """Return -gᵢ."""
        return ClientStart({"correction": {name: -g for name, g in self._gradient(client).items()}})

    def client_final(self, client: ClientContext) -> ClientResult:
        """Send the weights; keep gᵢ - α(yᵢ - x)."""
        x, y, alpha = client.received, client.weights, np.float32(self.alpha)
        gradient = {name: g - alpha * (y[name] - x[name]) for name, g in self._gradient(client).items()}
        return ClientResult({"weights": self.weights_message(client, y)}, {"gradient": gradient})

    def server_init(self, weights: Weights, parameters: Sequence[ParameterInfo]) -> ArrayGroups:  # noqa: ARG002
        """Start with h = 0, in float64."""
        return {"h": {p.name: np.zeros(p.shape) for p in parameters if not p.is_buffer}}

    def server_target(self, state: ServerState, aggregate: Aggregate, info: RoundInfo) -> Weights:
        """Return mean(yᵢ) - h/α with the new h, and the means of the buffers."""
        mean, h = super().server_target(state, aggregate, info), self.server_extra(state, aggregate, info)["h"]
        return {**mean, **{name: mean[name] - h[name] / self.alpha for name in h}}

    def server_extra(self, state: ServerState, aggregate: Aggregate, info: RoundInfo) -> ArrayGroups:
        """Return h - α · |S| / N · (mean(yᵢ) - x)."""
        factor, x, mean = self.alpha * len(info.contributors) / info.clients, state.weights, aggregate.weights
        return {"h": {name: h - factor * (mean[name] - x[name]) for name, h in state.extra["h"].items()}}

    def _gradient(self, client: ClientContext) -> Weights:
        """Return the client's gᵢ, zero before its first round."""
        zeros = {name: np.zeros_like(x) for name, x in client.trained(client.received).items()}
        return client.state.get("gradient", zeros)
