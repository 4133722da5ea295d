"""A strategy with a phase on the public images: FedAvg, where clients first learn the last round's mean outputs.

This is FedMD's order (arXiv 1910.03581: digest, then revisit) with shared weights.
"""

from collections.abc import Sequence

from fedray.aggregation.messages import Aggregate
from fedray.strategies.base import RoundInfo, Strategy
from fedray.training.context import ClientContext, ClientResult, ClientStart
from fedray.training.phases import Phase
from fedray.types import ArrayGroups, LossTerm, Message, ServerState

PUBLIC_EPOCHS = 3


class Digest(Strategy):
    """Minimises KL(consensus ‖ proxy) on public images, then cross-entropy."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        return {"proxy": [LossTerm("cross_entropy")]}

    def phases(self) -> Sequence[Phase]:
        distillation = {"proxy": [LossTerm("kd", options={"temperature": 1.0})]}
        return [Phase(distillation, data="public", epochs=PUBLIC_EPOCHS), Phase()]

    def client_init(self, client: ClientContext) -> ClientStart:
        consensus = client.broadcast.get("consensus") or {"logits": client.public_logits()}
        return ClientStart(public_targets=dict(consensus))

    def client_final(self, client: ClientContext) -> ClientResult:
        weights = self.weights_message(client, client.weights)
        return ClientResult({"weights": weights, "consensus": Message(1, {"logits": client.public_logits()})})

    def broadcast(self, state: ServerState) -> ArrayGroups:
        return state.extra

    def server_extra(self, state: ServerState, aggregate: Aggregate, info: RoundInfo) -> ArrayGroups:  # noqa: ARG002
        return {"consensus": {"logits": aggregate.means["consensus"]["logits"].astype("float32")}}
