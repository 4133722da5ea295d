"""The base of all strategies: a section of the spec with a client side and a server side. All methods but
`objectives` have a default. Arrays are NumPy's, in named groups; only loss terms of a strategy's own need torch.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import field_validator

from fedray.aggregation.aggregators import Aggregator
from fedray.aggregation.messages import Aggregate
from fedray.aggregation.server_optimizers import ServerOptimizer
from fedray.losses.distillation import REQUIRED_OUTPUT
from fedray.losses.teacher_term import TeacherTerm
from fedray.models.proxies import Proxy
from fedray.section import Section
from fedray.training.context import ClientContext, ClientResult, ClientStart
from fedray.training.phases import Phase, PhaseData, ServerPhase
from fedray.training.sections import AnyOptimizer, Training
from fedray.types import (
    ArrayGroups,
    LossTerm,
    Message,
    OutputKind,
    ParameterInfo,
    ServerState,
    TargetArrays,
    Weights,
    trained_names,
)


@dataclass(frozen=True)
class RoundInfo:
    """The clients of a round, as the server side of a strategy sees them."""

    round: int
    clients: int
    """Number of all clients that hold examples, whether they trained in the round or not."""
    contributors: Sequence[int]
    """Ids of the clients whose messages were aggregated, ascending."""
    examples: Mapping[int, int]
    """Number of examples by contributor."""
    steps: Mapping[int, int]
    """Number of local steps by contributor."""
    parameters: Sequence[ParameterInfo]
    """A description of each array of the global model."""

    @property
    def trained_names(self) -> list[str]:
        """Names of the trained parameters of the global model."""
        return trained_names(self.parameters)


class Strategy(Section):
    """A federated algorithm. A subclass defines its `name`, its parameters and its `objectives`.

    A round calls `broadcast` on the server; `client_init`, local training on `objectives`, and `client_final` for each
    client; then on the server `server_target`, its own training on public data (`server_phase`), and `server_extra`.
    """

    label: ClassVar[str] = ""
    """Name in tables and figures; empty: the same as `name`."""
    color: ClassVar[str] = "#7A7A7A"
    """Colour in figures, as a hexadecimal RGB value."""
    keeps_state: ClassVar[bool] = False
    """Whether `client_final` returns state, or a parameter is not shared."""
    pools_clients: ClassVar[bool] = False
    """Whether one client, number 0, trains on the examples of all."""
    uses_features: ClassVar[bool] = False
    """Whether loss terms read `LossInputs.features`, the inputs of the proxy's last linear layer."""
    uses_public_data: ClassVar[bool] = False
    """Whether clients read the public images, with `ClientContext.public_logits`; the server's phase reads them too."""
    frozen_models: ClassVar[tuple[str, ...]] = ()
    """Names of frozen copies of the proxy whose outputs loss terms read; `client_init` returns their weights."""
    refuses_distillation: ClassVar[str] = ""
    """The reason why `distillation` must be null; empty if it may be set."""
    name: str = ""
    weighting: Literal["examples", "uniform"] = "examples"
    """Weight of an update in the server's mean: proportional to its client's `examples` (n_i / n), or `uniform`."""
    distillation: TeacherTerm | None = None
    """The teacher's term, which is added to the proxy's objective; null for no teacher."""

    @field_validator("distillation")
    @classmethod
    def _check_distillation(cls, distillation: TeacherTerm | None) -> TeacherTerm | None:
        if distillation is not None and cls.refuses_distillation:
            raise ValueError(cls.refuses_distillation)
        return distillation

    def weight(self, examples: int) -> int:
        """Return the weight of an update in the server's mean."""
        return examples if self.weighting == "examples" else 1

    def conflict(
        self,
        *,
        server: ServerOptimizer,  # noqa: ARG002
        aggregation: Aggregator,  # noqa: ARG002
        optimizer: AnyOptimizer,  # noqa: ARG002
        proxy: Proxy,  # noqa: ARG002
    ) -> str | None:
        """Return the reason why the strategy cannot be combined with these sections of a spec, or None.

        It completes the sentence "strategy.name is 'scaffold', but ...".
        """
        return None

    @abstractmethod
    def objectives(self) -> Mapping[str, Sequence[LossTerm]]:
        """Return the loss terms of each model that a client trains; `proxy` is the model that is exchanged."""

    # On the client.

    def phases(self) -> Sequence[Phase]:
        """Return the parts of a client's training in a round, in order; default: one on all parameters."""
        return [Phase()]

    def client_init(self, client: ClientContext) -> ClientStart:  # noqa: ARG002
        """Return constants for loss terms, and the weights of the frozen models."""
        return ClientStart()

    def client_final(self, client: ClientContext) -> ClientResult:
        """Return the messages to the server and the client's new state. A client whose update is dropped keeps its old
        state."""
        return ClientResult({"weights": self.weights_message(client, client.weights)})

    def weights_message(self, client: ClientContext, weights: Weights) -> Message:
        """Return the message `weights`: the shared parameters, with the weight of the client's number of examples."""
        shared = {info.name: weights[info.name] for info in client.parameters if self.is_shared(info)}
        return Message(self.weight(client.examples), shared)

    def is_shared(self, parameter: ParameterInfo) -> bool:  # noqa: ARG002
        """Return whether a parameter or buffer is sent and averaged; others stay on each client from round to round."""
        return True

    def problem(self, parameters: Sequence[ParameterInfo]) -> str | None:  # noqa: ARG002
        """Return the reason for which a proxy with these arrays cannot be trained, or None."""
        return None

    # On the server.

    def server_init(self, weights: Weights, parameters: Sequence[ParameterInfo]) -> ArrayGroups:  # noqa: ARG002
        """Return the groups of `ServerState.extra` before round 1."""
        return {}

    def broadcast(self, state: ServerState) -> ArrayGroups:  # noqa: ARG002
        """Return the groups that are sent to the clients in addition to the weights."""
        return {}

    def server_target(self, state: ServerState, aggregate: Aggregate, info: RoundInfo) -> Weights:  # noqa: ARG002
        """Return the weights, float64, to which the server optimizer steps: the aggregate of the clients' weights."""
        return {**state.weights, **aggregate.weights}

    def server_phase(self) -> ServerPhase | None:
        """Return the server's own training on the public images, starting from `server_target`; by default None."""
        return None

    def public_targets(self, aggregate: Aggregate) -> TargetArrays:  # noqa: ARG002
        """Return the targets of the server's training by kind, `logits` float32 [P, classes], for the public images."""
        return {}

    def server_extra(self, state: ServerState, aggregate: Aggregate, info: RoundInfo) -> ArrayGroups:  # noqa: ARG002
        """Return the new groups of `ServerState.extra`; `state` is the state before the round."""
        return state.extra

    # Derived from the above.

    @property
    def is_stateful(self) -> bool:
        """Whether clients keep anything from round to round."""
        return self.keeps_state or self.client_model is not None

    def composed_objectives(self) -> dict[str, list[LossTerm]]:
        """Return `objectives`, with the teacher's term of `distillation` in the proxy's."""
        objectives = {model: list(terms) for model, terms in self.objectives().items()}
        if self.distillation is not None:
            objectives["proxy"] = self.distillation.added_to(objectives["proxy"])
        return objectives

    def active_objectives(self) -> dict[str, list[LossTerm]]:
        """Return `composed_objectives` without the terms whose weight is zero, which are not computed."""
        return {model: [t for t in terms if t.weight != 0] for model, terms in self.composed_objectives().items()}

    def phase_objectives(self, phase: Phase) -> Mapping[str, Sequence[LossTerm]]:
        """Return the loss terms of a phase by model."""
        return self.active_objectives() if phase.objectives is None else phase.objectives

    def phase_trainings(self, training: Training, data: PhaseData = "own") -> list[Training]:
        """Return the section `training` of each phase on this kind of data."""
        return [phase.training(training) for phase in self.phases() if phase.data == data]

    def round_epochs(self, training: Training, number: int, examples: int, data: PhaseData = "own") -> range:
        """Return the epochs of all phases of a round on this kind of data, counted over all rounds, from 0."""
        count = sum(part.epoch_count(examples) for part in self.phase_trainings(training, data))
        return range((number - 1) * count, number * count)

    def round_steps(self, training: Training, examples: int, public: int = 0) -> int:
        """Return the steps that a client trains per round; those on the `public` images are not counted if it is 0."""
        own = sum(part.steps(examples) for part in self.phase_trainings(training))
        return own + sum(part.steps(public) for part in self.phase_trainings(training, "public") if public)

    def round_examples(self, training: Training, examples: int) -> int:
        """Return how many of its own examples the steps of a client's round have in total."""
        return sum(part.trained_examples(examples) for part in self.phase_trainings(training))

    @property
    def teacher_term(self) -> TeacherTerm | None:
        """The section with the weight and the loss of the teacher's term, if the objective has one."""
        return self.distillation

    @property
    def required_outputs(self) -> frozenset[OutputKind]:
        """The kinds of teacher output that the active loss terms need; empty if no teacher is needed."""
        own = [self.phase_objectives(phase) for phase in self.phases() if phase.data == "own"]
        terms = [term for objectives in own for terms in objectives.values() for term in terms]
        kinds = (term.output_kind or REQUIRED_OUTPUT.get(term.loss) for term in terms)
        return frozenset(kind for kind in kinds if kind is not None)

    @property
    def needs_teacher(self) -> bool:
        """Whether an active loss term needs teacher outputs."""
        return bool(self.required_outputs)

    @property
    def needs_public_data(self) -> bool:
        """Whether clients or server read the public images."""
        is_read = any(phase.data == "public" for phase in self.phases())
        return self.uses_public_data or is_read or self.server_phase() is not None

    @property
    def proxy_view(self) -> bool:
        """Whether the teacher needs the same views of the images as the proxy."""
        return self.distillation is not None and self.distillation.proxy_view

    @property
    def mixup(self) -> float:
        """Images are mixed with weights from Beta(mixup, mixup); 0 turns mixing off."""
        return self.distillation.mixup if self.distillation is not None else 0.0

    @property
    def client_model(self) -> str | None:
        """The model that stays on the client from round to round: `private`, `projection` or None."""
        if "features" in self.required_outputs:
            return "projection"
        return "private" if "private" in self.objectives() else None
