"""What every strategy is: a section of the spec that says which terms its clients minimise."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

from fedray.distillation import Distillation
from fedray.section import Section
from fedray.types import Term

TAUGHT = frozenset(loss.model_fields["name"].default for loss in Distillation.__subclasses__())
"""Terms that look at the teacher's logits."""


class Strategy(Section):
    """A federated algorithm. A subclass adds its `name`, its parameters and its `objectives`."""

    name: str
    weighting: Literal["examples", "uniform"] = "examples"
    """How the server weighs the updates it averages: by their examples (n_i / n), or all alike."""

    @abstractmethod
    def objectives(self) -> Mapping[str, Sequence[Term]]:
        """The terms of each model a client trains; `proxy` is the one that is exchanged."""

    def active_objectives(self) -> dict[str, list[Term]]:
        """`objectives` without the terms whose weight is zero: they are not computed at all."""
        return {model: [t for t in terms if t.weight != 0] for model, terms in self.objectives().items()}

    @property
    def needs_teacher(self) -> bool:
        return any(t.loss in TAUGHT for terms in self.active_objectives().values() for t in terms)
