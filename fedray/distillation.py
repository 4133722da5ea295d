"""What a spec may say of the loss that distils a teacher: its name and its parameters.

To add one: a pure function `(student, teacher, labels, *, temperature, ...)` in `losses.py`, its
line in `objective.DISTILLATIONS`, and a section here, listed in `AnyDistillation`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from fedray.section import Section


class Distillation(Section):
    """A loss between the proxy's logits and the teacher's."""

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


AnyDistillation = Annotated[KD | LSKD | DKD | DIST | RLD | MSE, Field(discriminator="name")]
