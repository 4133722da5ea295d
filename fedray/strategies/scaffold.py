"""SCAFFOLD: control variates correct the drift of the clients (Karimireddy et al., arXiv 1910.06378, option II)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from fedray.aggregation.messages import Aggregate
from fedray.section import Section
from fedray.strategies.base import RoundInfo, Strategy
from fedray.strategies.conflicts import sgd_conflict
from fedray.training.context import ClientContext, ClientResult, ClientStart
from fedray.training.sections import AnyOptimizer
from fedray.types import ArrayGroups, LossTerm, Message, ParameterInfo, ServerState, Weights


class Scaffold(Strategy):
    """Minimises cross-entropy with the gradient corrected by c - cᵢ, the server's and the client's control variate.

    After K steps from x to y: cᵢ⁺ = cᵢ - c + (x - y) / (K · lr). The server averages the proxies,
    and adds to c the sum over the cohort of cᵢ⁺ - cᵢ, divided by the number of all clients. The paper uses SGD without
    momentum. With momentum the correction is part of the gradient, and K is replaced by the sum of the weights of all
    gradients in (x - y) / lr, so that cᵢ⁺ remains a mean of gradients. Otherwise each gradient would count up to
    1 / (1 - momentum) times, and the control variates would grow from round to round.
    """

    label: ClassVar[str] = "SCAFFOLD"
    color: ClassVar[str] = "#7744FF"
    keeps_state: ClassVar[bool] = True
    name: Literal["scaffold"] = "scaffold"

    def conflict(self, *, optimizer: AnyOptimizer, **_: Section) -> str | None:
        """Refuse optimizers other than SGD."""
        return sgd_conflict(optimizer, "it computes its control variates from the steps of SGD")

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
        scale = np.float32(client.gradient_weight * client.lr)
        change = {name: (x[name] - y[name]) / scale - c for name, c in client.broadcast["control"].items()}
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
        """Return the client's control variate cᵢ, zero before its first round."""
        zeros = {name: np.zeros_like(c) for name, c in client.broadcast["control"].items()}
        return client.state.get("control", zeros)
