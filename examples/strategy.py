"""A strategy: FedAvg with a penalty on confident predictions (Pereyra et al., arXiv 1701.06548)."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fedray import LossTerm, Strategy

if TYPE_CHECKING:  # a process that only reads the spec need not import torch, which takes two seconds
    from torch import Tensor

    from fedray import LossInputs


class ConfidencePenalty(Strategy):
    """Minimises CE - β · H(p), H being the entropy of the proxy's probabilities."""

    label: ClassVar[str] = "Confidence penalty"
    color: ClassVar[str] = "#CC3311"
    beta: float = Field(0.1, ge=0)
    """Weight β of the entropy."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy and the negative entropy for the proxy."""
        penalty = LossTerm("negative_entropy", self.beta, function=negative_entropy)
        return {"proxy": [LossTerm("cross_entropy"), penalty]}


def negative_entropy(inputs: "LossInputs") -> "Tensor":
    """Return Σ p log p of the proxy's probabilities, its mean over the batch."""
    log_p = inputs.model_logits.log_softmax(dim=1)
    return (log_p.exp() * log_p).sum(dim=1).mean()
