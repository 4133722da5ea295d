"""SCAFFOLD: control variates correct the drift of the clients (Karimireddy et al., arXiv 1910.06378, option II)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from fedray.aggregation.messages import Aggregate
from fedray.strategies.base import RoundInfo, Strategy
from fedray.training.context import ClientContext, ClientResult, ClientStart
from fedray.types import ArrayGroups, LossTerm, Message, ParameterInfo, ServerState, Weights


class Scaffold(Strategy):
    """Minimises cross-entropy with the gradient corrected by c - cᵢ, the server's and the client's control variate.

    After K steps from x to y: cᵢ⁺ = cᵢ - c + (x - y) / (K · lr). The server averages the proxies,
    and adds to c the sum over the cohort of cᵢ⁺ - cᵢ, divided by the number of all clients.
    """

    label: ClassVar[str] = "SCAFFOLD"
    color: ClassVar[str] = "#CC79A7"
    keeps_state: ClassVar[bool] = True
    name: Literal["scaffold"] = "scaffold"

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy, and a linear term whose gradient is c - cᵢ."""
        return {"proxy": [LossTerm("cross_entropy"), LossTerm("linear", options={"constant": "correction"})]}

    def client_init(self, client: ClientContext) -> ClientStart:
        """Return c - cᵢ."""
        own = self._own(client)
        return ClientStart({"correction": {name: c - own[name] for name, c in client.broadcast["control"].items()}})

    def client_final(self, client: ClientContext) -> ClientResult:
        """Send the weights and cᵢ⁺ - cᵢ, the latter with equal weights; keep cᵢ⁺."""
        own, x, y = self._own(client), client.received, client.weights
        change = {
            n: (x[n] - y[n]) / np.float32(client.steps * client.lr) - c for n, c in client.broadcast["control"].items()
        }
        messages = {"weights": self.weights_message(client, y), "control": Message(1, change)}
        return ClientResult(messages, {"control": {name: own[name] + change[name] for name in own}})

    def server_init(self, weights: Weights, parameters: Sequence[ParameterInfo]) -> ArrayGroups:
        """Start with c = 0."""
        return {"control": {p.name: np.zeros_like(weights[p.name]) for p in parameters if not p.is_buffer}}

    def broadcast(self, state: ServerState) -> ArrayGroups:
        """Send c."""
        return state.extra

    def server_extra(self, state: ServerState, aggregate: Aggregate, info: RoundInfo) -> ArrayGroups:
        """Return c + |S| / N · mean(cᵢ⁺ - cᵢ)."""
        share, change = len(info.contributors) / info.clients, aggregate.means["control"]
        control = state.extra["control"]
        return {"control": {n: (c + share * change[n]).astype(c.dtype) for n, c in control.items()}}

    def _own(self, client: ClientContext) -> Weights:
        """The client's control variate cᵢ, zero before its first round."""
        zeros = {name: np.zeros_like(c) for name, c in client.broadcast["control"].items()}
        return client.state.get("control", zeros)
