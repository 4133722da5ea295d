"""What a spec may say of the loss that distils a teacher: its name and its parameters.

To add one: a pure function `(student, teacher, labels, *, temperature, ...)` in `losses.py`, its
line in `objective.DISTILLATIONS`, and a section here, listed in `AnyDistillation`. With
`uses = "features"` the function is given the proxy's projected features and the teacher's.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedray.section import Section


class Distillation(Section):
    """A loss between what the proxy makes of a batch and what the teacher does."""

    uses: ClassVar[Literal["logits", "features"]] = "logits"
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Its parameters, as the loss function takes them."""
        return self.model_dump(exclude={"name"})


class KD(Distillation):
    """Kullback-Leibler divergence from the teacher (Hinton, Vinyals and Dean, arXiv 1503.02531)."""

    name: Literal["kd"] = "kd"
    direction: Literal["forward", "reverse"] = "forward"
    """`forward` is KL(teacher ‖ proxy), `reverse` is KL(proxy ‖ teacher)."""


class LSKD(Distillation):
    """kd on standardised logits (Sun et al., arXiv 2403.01427); T = 2 there. Suits CLIP's ×100 logits."""

    name: Literal["ls_kd"] = "ls_kd"


class DKD(Distillation):
    """Decoupled: the true class against the rest, and the rest among themselves (arXiv 2203.08679)."""

    name: Literal["dkd"] = "dkd"
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(8.0, ge=0)


class DIST(Distillation):
    """Correlation of each row and each column of the probabilities (Huang et al., arXiv 2205.10536)."""

    name: Literal["dist"] = "dist"
    beta: float = Field(1.0, ge=0)
    gamma: float = Field(1.0, ge=0)


class RLD(Distillation):
    """Distils only what a wrong teacher does not get wrong (Sun et al., arXiv 2408.07703)."""

    name: Literal["rld"] = "rld"
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(8.0, ge=0)
    confidence_temperature: float = Field(1.0, gt=0)


class MSE(Distillation):
    """Mean squared difference of centred logits; the temperature plays no part."""

    name: Literal["mse"] = "mse"


class FunctionMatching(Distillation):
    """KL on the view that the proxy sees, mixed with another, without labels (Beyer et al., arXiv 2106.05237).

    Needs `strategy.lam: 1`, `teacher.view: proxy` and, because mixtures never come twice,
    `teacher.mode: online` unless mixup is 0.
    """

    name: Literal["function_matching"] = "function_matching"
    mixup: float = Field(1.0, ge=0)
    """The mixing share is drawn from Beta(mixup, mixup); 0 does not mix."""

    @property
    def options(self) -> dict[str, Any]:
        return {}  # images are mixed before the loss sees them


class Cosine(Distillation):
    """1 - cosine between the teacher's features and the proxy's, projected by a matrix the client keeps."""

    uses: ClassVar[Literal["logits", "features"]] = "features"
    name: Literal["cosine"] = "cosine"


class FeatureMSE(Distillation):
    """Mean squared difference of those features, each row of the teacher's brought to mean square 1."""

    uses: ClassVar[Literal["logits", "features"]] = "features"
    name: Literal["feature_mse"] = "feature_mse"


AnyDistillation = Annotated[
    KD | LSKD | DKD | DIST | RLD | MSE | FunctionMatching | Cosine | FeatureMSE, Field(discriminator="name")
]

REQUIRED_OUTPUT = {loss.model_fields["name"].default: loss.uses for loss in Distillation.__subclasses__()}
"""Which of the teacher's answers each loss looks at, by its name."""
