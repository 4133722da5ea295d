"""The spec sections of distillation losses: each has a name and the parameters of its function.

To add a loss: a pure function `(student, teacher, labels, *, temperature, ...)` in `functional.py`, its line in
`terms.DISTILLATIONS`, and a section in this file, listed in `AnyDistillation`. With `output_kind = "features"` the
function receives the proxy's projected features and the teacher's features instead of logits.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedray.section import Section


class Distillation(Section):
    """A loss between the outputs of proxy and teacher for the same batch."""

    output_kind: ClassVar[Literal["logits", "features"]] = "logits"
    name: str

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


AnyDistillation = Annotated[
    KD | LSKD | DKD | DIST | RLD | MSE | FunctionMatching | Cosine | FeatureMSE, Field(discriminator="name")
]

REQUIRED_OUTPUT = {loss.model_fields["name"].default: loss.output_kind for loss in Distillation.__subclasses__()}
"""The kind of teacher output that each distillation loss needs, by the loss's name."""
