"""The spec sections of distillation losses: each has a name and the parameters of its function.

To add a loss: a pure function `(student, teacher, labels, *, temperature, ...)` in `functional.py`, its line in
`terms.DISTILLATIONS`, and a section in this file, listed in `LOSSES`. With `output_kind = "features"` the
function receives the proxy's projected features and the teacher's features instead of logits. A loss outside the
package is a section with the method `compute`.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from fedray.registry import Registry
from fedray.section import Section
from fedray.types import LossTerm

if TYPE_CHECKING:
    from torch import Tensor

    from fedray.losses.terms import LossInputs


class Distillation(Section):
    """A loss between the outputs of proxy and teacher for the same batch."""

    output_kind: ClassVar[Literal["logits", "features"]] = "logits"
    name: str = ""

    def term(self, weight: float, temperature: float) -> LossTerm:
        """Return the loss term with a weight and a temperature."""
        if type(self).compute is Distillation.compute:
            return LossTerm(self.name, weight, {"temperature": temperature, **self.options})
        return LossTerm(self.name, weight, {"temperature": temperature}, self._of_inputs, self.output_kind)

    def compute(self, student: "Tensor", teacher: "Tensor", labels: "Tensor", temperature: float) -> "Tensor":
        """Return the loss of a batch, a scalar. A class outside the package defines this method.

        `student` and `teacher` are float32 logits [B, C], or features [B, d]; `labels` are int64 [B]. The teacher's
        outputs have no gradient.
        """
        from fedray.losses.terms import DISTILLATIONS

        return DISTILLATIONS[self.name](student, teacher, labels, temperature=temperature, **self.options)

    def _of_inputs(self, inputs: "LossInputs", temperature: float) -> "Tensor":
        student = inputs.model_logits if self.output_kind == "logits" else inputs.projected
        assert student is not None, "a loss on features has a projection"
        return self.compute(student, inputs.targets[self.output_kind].detach(), inputs.labels, temperature)

    @property
    def options(self) -> dict[str, float | str]:
        """Keyword arguments of the loss function, apart from the temperature."""
        return self.model_dump(exclude={"name"})


class KD(Distillation):
    """Kullback-Leibler divergence between teacher and proxy (Hinton, Vinyals and Dean, arXiv 1503.02531)."""

    name: Literal["kd"] = "kd"
    direction: Literal["forward", "reverse"] = "forward"
    """`forward` is KL(teacher ‖ proxy), `reverse` is KL(proxy ‖ teacher)."""


class LSKD(Distillation):
    """`kd` on standardised logits (Sun et al., arXiv 2403.01427, with T = 2). Suits CLIP, whose logits are large."""

    name: Literal["ls_kd"] = "ls_kd"


class DKD(Distillation):
    """Decoupled distillation: true class against the others, and the others among themselves (arXiv 2203.08679)."""

    name: Literal["dkd"] = "dkd"
    alpha: float = Field(1.0, ge=0)
    """Weight of the KL between the true class and the others."""
    beta: float = Field(8.0, ge=0)
    """Weight of the KL among the other classes."""


class DIST(Distillation):
    """One minus the correlation of the probabilities, by rows and by columns (Huang et al., arXiv 2205.10536)."""

    name: Literal["dist"] = "dist"
    beta: float = Field(1.0, ge=0)
    """Weight of the rows: the classes of one example."""
    gamma: float = Field(1.0, ge=0)
    """Weight of the columns: one class over the batch."""


class RLD(Distillation):
    """Refined logit distillation: ignores the classes that the teacher ranks above the true one (arXiv 2408.07703)."""

    name: Literal["rld"] = "rld"
    alpha: float = Field(1.0, ge=0)
    """Weight of the KL between the teacher's highest probability and the proxy's probability of the true class."""
    beta: float = Field(8.0, ge=0)
    """Weight of the KL over the classes that the teacher ranks below the true one."""
    confidence_temperature: float = Field(1.0, gt=0)
    """Temperature of the first KL."""


class MSE(Distillation):
    """Mean squared difference of centred logits. Ignores the temperature."""

    name: Literal["mse"] = "mse"


class FunctionMatching(Distillation):
    """KL without labels, on mixtures of the proxy's views (Beyer et al., arXiv 2106.05237).

    Requires `strategy.lam: 1` and `teacher.view: proxy`. Unless mixup is 0 it also requires `teacher.mode: online`,
    because no mixture occurs twice.
    """

    name: Literal["function_matching"] = "function_matching"
    mixup: float = Field(1.0, ge=0)
    """Images are mixed with weights from Beta(mixup, mixup); 0 turns mixing off."""

    @property
    def options(self) -> dict[str, float | str]:
        """No options: images are mixed before the loss is computed."""
        return {}


class Cosine(Distillation):
    """1 - cosine of the teacher's features and the proxy's, projected by a matrix that stays on the client."""

    output_kind: ClassVar[Literal["logits", "features"]] = "features"
    name: Literal["cosine"] = "cosine"


class FeatureMSE(Distillation):
    """Mean squared difference of the features that `cosine` uses; the teacher's are scaled to mean square 1."""

    output_kind: ClassVar[Literal["logits", "features"]] = "features"
    name: Literal["feature_mse"] = "feature_mse"


LOSSES: Registry[Distillation] = Registry(
    Distillation, "fedray.losses", (KD, LSKD, DKD, DIST, RLD, MSE, FunctionMatching, Cosine, FeatureMSE)
)
"""The built-in distillation losses by name, and those of other packages."""

AnyDistillation = Annotated[Distillation, LOSSES]

REQUIRED_OUTPUT = {name: loss.output_kind for name, loss in LOSSES.items()}
"""The kind of teacher output that each distillation loss needs, by the loss's name."""
