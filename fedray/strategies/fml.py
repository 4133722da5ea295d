"""FML: a private model and the proxy are distilled into each other (Shen et al., arXiv 2006.16765)."""

from typing import ClassVar, Literal

from pydantic import Field

from fedray.models.proxies import AnyProxy
from fedray.strategies.base import Strategy
from fedray.types import LossTerm


class FML(Strategy):
    """Private model: α · CE + (1 - α) · KL(proxy ‖ private). Proxy: β · CE + (1 - β) · KL(private ‖ proxy).

    Both models take a step on the same batch; the logits of the other model are constants. The private model stays
    on its client. The proxies (the paper's memes) are averaged with equal weights. Defaults are those of the authors'
    code (ZJU-DAI/Federated-Mutual-Learning).
    """

    label: ClassVar[str] = "FML"
    color: ClassVar[str] = "#B5649A"
    refuses_distillation: ClassVar[str] = (
        "must be null for fml: its two objectives distil its models into each other, and neither has a teacher"
    )
    name: Literal["fml"] = "fml"
    weighting: Literal["examples", "uniform"] = "uniform"
    """Weight of an update in the server's mean: `uniform` as in the paper, or proportional to `examples`."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight α of the cross-entropy in the private model's objective."""
    beta: float = Field(0.5, ge=0, le=1)
    """Weight β of the cross-entropy in the proxy's objective."""
    private: AnyProxy | None = None
    """The private model, as in the `proxy` section; null for the same architecture as the proxy."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy and mutual distillation, for both models."""
        return {
            "proxy": [LossTerm("cross_entropy", self.beta), LossTerm("mutual", 1 - self.beta)],
            "private": [LossTerm("cross_entropy", self.alpha), LossTerm("mutual", 1 - self.alpha)],
        }
