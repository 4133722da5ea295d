"""What every strategy is: a section of the spec that says which terms its clients minimise."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from fedray.losses.distillation import REQUIRED_OUTPUT
from fedray.section import Section
from fedray.types import LossTerm, OutputKind


class Strategy(Section):
    """A federated algorithm. A subclass adds its `name`, its parameters and its `objectives`."""

    label: ClassVar[str] = ""
    """Name in tables and figures; empty: the same as `name`."""
    color: ClassVar[str] = "#7A7A7A"
    """Colour in figures, as a hexadecimal RGB value."""
    name: str
    weighting: Literal["examples", "uniform"] = "examples"
    """How the server weighs the updates it averages: by their examples (n_i / n), or all alike."""

    def weight(self, examples: int) -> int:
        """What an update counts in the average."""
        return examples if self.weighting == "examples" else 1

    @abstractmethod
    def objectives(self) -> Mapping[str, Sequence[LossTerm]]:
        """The terms of each model a client trains; `proxy` is the one that is exchanged."""

    def active_objectives(self) -> dict[str, list[LossTerm]]:
        """`objectives` without the terms whose weight is zero: they are not computed at all."""
        return {model: [t for t in terms if t.weight != 0] for model, terms in self.objectives().items()}

    @property
    def required_outputs(self) -> frozenset[OutputKind]:
        """Which of the teacher's answers its terms look at; empty where it needs no teacher."""
        losses = {term.loss for terms in self.active_objectives().values() for term in terms}
        return frozenset(REQUIRED_OUTPUT[loss] for loss in losses & REQUIRED_OUTPUT.keys())

    @property
    def needs_teacher(self) -> bool:
        return bool(self.required_outputs)

    @property
    def proxy_view(self) -> bool:
        """Whether the teacher must see the view that the proxy sees."""
        return False

    @property
    def mixup(self) -> float:
        """The parameter of the Beta distribution that mixes images; 0 does not mix."""
        return 0.0

    @property
    def keeps(self) -> str | None:
        """The model that a client trains beside the proxy, and keeps: `private`, `projection` or none."""
        if "features" in self.required_outputs:
            return "projection"
        return "private" if "private" in self.objectives() else None
