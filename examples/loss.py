"""A distillation loss: half the L1 distance between the probabilities of teacher and proxy."""

from typing import TYPE_CHECKING

from pydantic import Field

from fedray import Distillation

if TYPE_CHECKING:
    from torch import Tensor


class TotalVariation(Distillation):
    """T · ½ Σ |q - p| over the classes, with probabilities at temperature T; `power` sharpens the teacher's."""

    power: float = Field(1.0, gt=0)
    """Factor of the teacher's logits."""

    def compute(self, student: "Tensor", teacher: "Tensor", labels: "Tensor", temperature: float) -> "Tensor":
        """Return the mean over the batch."""
        del labels  # not used
        p = (student / temperature).softmax(dim=1)
        q = (teacher * self.power / temperature).softmax(dim=1)
        return temperature * 0.5 * (q - p).abs().sum(dim=1).mean()
