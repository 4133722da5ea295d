"""MOON: model-contrastive learning keeps the features of clients close to the global model's (arXiv 2103.16257)."""

from typing import ClassVar, Literal

from pydantic import Field

from fedray.strategies.base import Strategy
from fedray.training.context import ClientContext, ClientResult, ClientStart
from fedray.types import LossTerm


class Moon(Strategy):
    """Minimises CE - μ · log(e^(s(z, z_glob) / τ) / (e^(s(z, z_glob) / τ) + e^(s(z, z_prev) / τ))), s being the cosine.

    z, z_glob and z_prev are features of an image: of the proxy, of the global model, and of the client's proxy after
    its last round (before its first round: of the global model). Features are the inputs of the proxy's last linear
    layer; the projection head of the paper's model is left out. The frozen models run in evaluation mode. The defaults
    are those of Flower's baseline for CIFAR-10, by the first author.
    """

    label: ClassVar[str] = "MOON"
    color: ClassVar[str] = "#C44E52"
    keeps_state: ClassVar[bool] = True
    uses_features: ClassVar[bool] = True
    frozen_models: ClassVar[tuple[str, ...]] = ("global", "previous")
    name: Literal["moon"] = "moon"
    mu: float = Field(1.0, ge=0)
    """Weight μ of the contrastive term."""
    temperature: float = Field(0.5, gt=0)
    """Temperature τ of the cosines."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy and the contrastive term for the proxy."""
        contrastive = LossTerm("contrastive", self.mu, {"temperature": self.temperature})
        return {"proxy": [LossTerm("cross_entropy"), contrastive]}

    def client_init(self, client: ClientContext) -> ClientStart:
        """Return the global model and the client's previous one."""
        return ClientStart(
            frozen={"global": client.received, "previous": client.state.get("previous", client.received)}
        )

    def client_final(self, client: ClientContext) -> ClientResult:
        """Send the weights, and keep them."""
        return ClientResult({"weights": self.weights_message(client, client.weights)}, {"previous": client.weights})
