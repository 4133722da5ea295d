"""The base of all strategies: a section of the spec with the objectives that clients minimise."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from fedray.losses.distillation import REQUIRED_OUTPUT
from fedray.section import Section
from fedray.types import LossTerm, OutputKind


class Strategy(Section):
    """A federated algorithm. A subclass defines its `name`, its parameters and its `objectives`."""

    label: ClassVar[str] = ""
    """Name in tables and figures; empty: the same as `name`."""
    color: ClassVar[str] = "#7A7A7A"
    """Colour in figures, as a hexadecimal RGB value."""
    name: str = ""
    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of an update in the server's mean: proportional to its client's `examples` (n_i / n), or `uniform`."""

    def weight(self, examples: int) -> int:
        """Return the weight of an update in the server's mean."""
        return examples if self.weighting == "examples" else 1

    @abstractmethod
    def objectives(self) -> Mapping[str, Sequence[LossTerm]]:
        """Return the loss terms of each model that a client trains; `proxy` is the model that is exchanged."""

    def active_objectives(self) -> dict[str, list[LossTerm]]:
        """Return `objectives` without the terms whose weight is zero, which are not computed."""
        return {model: [t for t in terms if t.weight != 0] for model, terms in self.objectives().items()}

    @property
    def required_outputs(self) -> frozenset[OutputKind]:
        """The kinds of teacher output that the active loss terms need; empty if no teacher is needed."""
        terms = [term for terms in self.active_objectives().values() for term in terms]
        kinds = (term.output_kind or REQUIRED_OUTPUT.get(term.loss) for term in terms)
        return frozenset(kind for kind in kinds if kind is not None)

    @property
    def needs_teacher(self) -> bool:
        """Whether an active loss term needs teacher outputs."""
        return bool(self.required_outputs)

    @property
    def proxy_view(self) -> bool:
        """Whether the teacher needs the same views of the images as the proxy."""
        return False

    @property
    def mixup(self) -> float:
        """Images are mixed with weights from Beta(mixup, mixup); 0 turns mixing off."""
        return 0.0

    @property
    def client_model(self) -> str | None:
        """The model that stays on the client from round to round: `private`, `projection` or None."""
        if "features" in self.required_outputs:
            return "projection"
        return "private" if "private" in self.objectives() else None
