"""FedNova: normalised averaging of clients with unequal numbers of steps (Wang et al., arXiv 2007.07481)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from fedray.aggregation.messages import Aggregate
from fedray.section import Section
from fedray.strategies.base import RoundInfo, Strategy
from fedray.strategies.conflicts import sgd_conflict
from fedray.training.context import ClientContext, ClientResult
from fedray.training.sections import AnyOptimizer
from fedray.types import ArrayGroups, LossTerm, Message, ParameterInfo, ServerState, Weights


class FedNova(Strategy):
    """Minimises cross-entropy; the server averages updates per step: x ← x - (Σ pᵢaᵢ) · Σ pᵢ (x - yᵢ) / aᵢ.

    pᵢ is the weight of client i, and aᵢ the sum of the weights of its gradients in (x - yᵢ) / lr: its number of steps
    τ without momentum, (τ - ρ(1 - ρ^τ) / (1 - ρ)) / (1 - ρ) with momentum ρ. Buffers are averaged as they are.
    """

    label: ClassVar[str] = "FedNova"
    color: ClassVar[str] = "#6688FF"
    name: Literal["fednova"] = "fednova"

    def conflict(self, *, optimizer: AnyOptimizer, **_: Section) -> str | None:
        """Refuse optimizers other than SGD: the normalisation is defined for steps that are sums of gradients."""
        return sgd_conflict(optimizer, "it divides an update by the weights of its gradients")

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy for the proxy."""
        return {"proxy": [LossTerm("cross_entropy")]}

    def client_final(self, client: ClientContext) -> ClientResult:
        """Send x - a · (x - yᵢ) / aᵢ, the buffers of yᵢ, and aᵢ. a is the mean of aᵢ in the round before, so that the
        update has the size of FedAvg's and is not lost in the rounding of x."""
        x, y, own = client.received, client.weights, client.gradient_weight
        scale = np.float32(client.broadcast["steps"]["a"][0] / own)
        scaled = {name: x[name] - scale * (x[name] - y[name]) for name in client.trained(y)}
        weights = self.weights_message(client, {**y, **scaled})
        return ClientResult({"weights": weights, "steps": Message(weights.weight, {"a": np.array([own])})})

    def server_init(self, weights: Weights, parameters: Sequence[ParameterInfo]) -> ArrayGroups:  # noqa: ARG002
        """Start with a = 1."""
        return {"steps": {"a": np.ones(1)}}

    def broadcast(self, state: ServerState) -> ArrayGroups:
        """Send a."""
        return state.extra

    def server_target(self, state: ServerState, aggregate: Aggregate, info: RoundInfo) -> Weights:
        """Return x - Σ pᵢaᵢ / a · (x - the mean of the messages), and the means of the buffers."""
        target = super().server_target(state, aggregate, info)
        x, ratio = state.weights, aggregate.means["steps"]["a"][0] / state.extra["steps"]["a"][0]
        return {**target, **{name: x[name] - ratio * (x[name] - target[name]) for name in info.trained_names}}

    def server_extra(self, state: ServerState, aggregate: Aggregate, info: RoundInfo) -> ArrayGroups:  # noqa: ARG002
        """Return the mean of aᵢ."""
        return {"steps": aggregate.means["steps"]}
