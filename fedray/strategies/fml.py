"""FML: a private model and the proxy teach each other (Shen et al., arXiv 2006.16765)."""

from typing import ClassVar, Literal

from pydantic import Field

from fedray.models.proxies import Proxy
from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class FML(Strategy):
    """Private: α·CE + (1-α)·KL(proxy ‖ private). Proxy: β·CE + (1-β)·KL(private ‖ proxy).

    Both step on the same batch, each seeing the other's logits as constants. The private model
    stays on its client; the proxies (the paper's memes) are averaged without weights. The
    defaults are those of the authors' code (ZJU-DAI/Federated-Mutual-Learning).
    """

    label: ClassVar[str] = "FML"
    color: ClassVar[str] = "#B5649A"
    name: Literal["fml"] = "fml"
    weighting: Literal["examples", "uniform"] = "uniform"
    alpha: float = Field(0.5, ge=0, le=1)
    beta: float = Field(0.5, ge=0, le=1)
    private: Proxy | None = None
    """The private model, where it is not to be of the proxy's kind."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        return {
            "proxy": [LossTerm("cross_entropy", self.beta), LossTerm("mutual", 1 - self.beta)],
            "private": [LossTerm("cross_entropy", self.alpha), LossTerm("mutual", 1 - self.alpha)],
        }
