"""What every strategy is: a section of the spec that says which terms its clients minimise."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

from fedray.distillation import TAUGHT
from fedray.section import Section
from fedray.types import Quantity, Term


class Strategy(Section):
    """A federated algorithm. A subclass adds its `name`, its parameters and its `objectives`."""

    name: str
    weighting: Literal["examples", "uniform"] = "examples"
    """How the server weighs the updates it averages: by their examples (n_i / n), or all alike."""

    def weight(self, examples: int) -> int:
        """What an update counts in the average."""
        return examples if self.weighting == "examples" else 1

    @abstractmethod
    def objectives(self) -> Mapping[str, Sequence[Term]]:
        """The terms of each model a client trains; `proxy` is the one that is exchanged."""

    def active_objectives(self) -> dict[str, list[Term]]:
        """`objectives` without the terms whose weight is zero: they are not computed at all."""
        return {model: [t for t in terms if t.weight != 0] for model, terms in self.objectives().items()}

    @property
    def lessons(self) -> frozenset[Quantity]:
        """Which of the teacher's answers its terms look at; empty where it needs no teacher."""
        losses = {term.loss for terms in self.active_objectives().values() for term in terms}
        return frozenset(TAUGHT[loss] for loss in losses & TAUGHT.keys())

    @property
    def needs_teacher(self) -> bool:
        return bool(self.lessons)

    @property
    def same_view(self) -> bool:
        """Whether the teacher must see the view that the proxy sees."""
        return False

    @property
    def mixup(self) -> float:
        """The parameter of the Beta distribution that mixes images; 0 does not mix."""
        return 0.0

    @property
    def keeps(self) -> str | None:
        """The model that a client trains beside the proxy, and keeps: `private`, `projection` or none."""
        if "features" in self.lessons:
            return "projection"
        return "private" if "private" in self.objectives() else None
