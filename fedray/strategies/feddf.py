"""FedDF: the ensemble of the clients' models is distilled into their mean on public data (arXiv 2006.07242)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from fedray.aggregation.messages import Aggregate
from fedray.strategies.base import Strategy
from fedray.training.context import ClientContext, ClientResult
from fedray.training.phases import ServerPhase
from fedray.training.sections import Adam, AnyOptimizer
from fedray.types import LossTerm, Message, TargetArrays


class FedDF(Strategy):
    """Clients train as in FedAvg. The server minimises KL(ensemble ‖ model) on the public split, from their mean.

    Adam with cosine decay, the batch size and T = 1 are the paper's (Lin et al., 2020). The paper takes up to 10,000
    steps and stops early on a validation set, which is left out here: all `steps` are taken.
    """

    label: ClassVar[str] = "FedDF"
    color: ClassVar[str] = "#0B6E8F"
    name: Literal["feddf"] = "feddf"
    scheme: Literal["avg_logits", "avg_probabilities"] = "avg_logits"
    """The ensemble: softmax of the clients' mean logits, or the mean of their probabilities. The latter's gradient is
    that of the mean over clients of KL(client ‖ model). Clients have equal weights."""
    steps: int = Field(200, ge=0)
    """Steps of the server per round; 0 for none, which is FedAvg."""
    optimizer: AnyOptimizer = Adam()
    """The server's optimizer, `adam` if it has no name. Its learning rate falls along half a cosine."""
    batch_size: int = Field(128, ge=2)
    """Public images per step."""

    @field_validator("optimizer", mode="before")
    @classmethod
    def _adam_by_default(cls, optimizer: object) -> object:
        return {"name": "adam", **optimizer} if isinstance(optimizer, Mapping) else optimizer

    def objectives(self) -> dict[str, list[LossTerm]]:
        """Cross-entropy."""
        return {"proxy": [LossTerm("cross_entropy")]}

    def client_final(self, client: ClientContext) -> ClientResult:
        """Send the weights, and the outputs for the public images with equal weights."""
        messages = {"weights": self.weights_message(client, client.weights)}
        if self.steps:
            messages["ensemble"] = Message(1, {"outputs": self._outputs(client.public_logits())})
        return ClientResult(messages)

    def server_phase(self) -> ServerPhase | None:
        """Distillation on the public images with cosine decay."""
        terms = [LossTerm("kd", options={"temperature": 1.0})]
        return ServerPhase(terms, self.steps, self.batch_size, self.optimizer) if self.steps else None

    def public_targets(self, aggregate: Aggregate) -> TargetArrays:
        """Return logits of the ensemble."""
        mean = aggregate.means["ensemble"]["outputs"]
        if self.scheme == "avg_probabilities":
            mean = np.log(np.maximum(mean, np.finfo(np.float32).tiny))
        return {"logits": mean.astype(np.float32)}

    def _outputs(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The logits or probabilities of one client, which are averaged."""
        if self.scheme == "avg_logits":
            return logits
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(odds / odds.sum(1, keepdims=True))
