"""What each client is taught in a round: which teachers it has, on which views, made into one."""

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.backends.base import Backend, Handle
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.views import PLAIN, VIEWS, choose_views
from fedray.errors import SpecError
from fedray.server.teacher_queries import TeacherClient
from fedray.teachers.cache import Values
from fedray.teachers.precomputed import PrecomputedTeacher
from fedray.teachers.sections import Adapted, Ensemble, Precomputed, members, members_of
from fedray.training.evaluation import EvalCounts
from fedray.types import Indices, OutputKind, Progress, TeacherQuery

if TYPE_CHECKING:
    from torch import Tensor

    from fedray.teachers.ensemble import LogitEnsemble

ClientRows: TypeAlias = Mapping[int, Indices]
"""Of each client, which rows: images as they are, or `image * VIEWS + view`."""
ByClient: TypeAlias = Generator[Progress, None, dict[int, Values]]


class TeacherTargets:
    """Asks the bank, never a teacher: that is for workers. With `mode: online` it has nothing to say."""

    def __init__(
        self, experiment: Experiment, federated: FederatedDataset, backend: Backend, teacher_client: TeacherClient
    ) -> None:
        self._experiment = experiment
        self._federated = federated
        self._backend = backend
        self._teacher_client = teacher_client
        self._teacher = experiment.teacher
        self._members = members(experiment.teacher)
        self.output_kinds = sorted(experiment.strategy.required_outputs)
        self._cached = bool(self.output_kinds) and getattr(experiment.teacher, "mode", None) == "cached"
        proxy_view = getattr(experiment.teacher, "view", None) == "proxy"
        self.augmented = self._cached and proxy_view and experiment.data.augment == "crop_flip"
        self._blends: dict[int, LogitEnsemble] = {}
        self._fixed: dict[int, Handle] = {}

    def of_round(self, number: int, cohort: Sequence[int]) -> Generator[Progress, None, dict[int, Handle]]:
        """Returns each client's lessons, shared: `logits` [E, n, classes] or `features` [E, n, d].

        E is the round's epochs where each has views of its own, else 1.
        """
        if not self._cached:
            return {}
        if self.augmented:
            epochs = self._experiment.training.local_epochs
            numbers = range((number - 1) * epochs, number * epochs)
            return (yield from self._share({client: self._views(client, numbers) for client in cohort}))
        if not self._fixed:
            holders = [client for client, shard in enumerate(self._federated.shards) if len(shard)]
            self._fixed = yield from self._share({client: self._federated.shards[client] for client in holders})
        return self._fixed

    def asked(self, cohort: Sequence[int]) -> int:
        """How many answers a round's steps look at: as many forward passes as it would take without a bank."""
        if not self.output_kinds:
            return 0
        examples = (len(self._federated.shards[client]) * len(self._members_of(client)) for client in cohort)
        return sum(examples) * self._experiment.training.local_epochs

    def tally(self) -> EvalCounts | None:
        """What the teachers take the examples for that clients hold, seen plain; None if not known."""
        if not self._fixed or "logits" not in self.output_kinds:
            return None
        train, shards = self._federated.train, self._federated.shards
        labels = np.concatenate([train.labels[shards[client]] for client in self._fixed])
        logits = (self._backend.fetch(handle)["logits"][0] for handle in self._fixed.values())
        return EvalCounts(labels, np.concatenate([each.argmax(1) for each in logits]), len(train.classes))

    def _views(self, client: int, epochs: Sequence[int]) -> Indices:
        """[E * n], the rows of the views that the client will see."""
        examples = self._federated.shards[client]
        seed = self._experiment.seed
        return np.concatenate([examples * VIEWS + choose_views(examples, seed, epoch) for epoch in epochs])

    def _share(self, rows: ClientRows) -> Generator[Progress, None, dict[int, Handle]]:
        targets: dict[int, dict[str, npt.NDArray[np.float32]]] = {client: {} for client in rows}
        for output_kind in self.output_kinds:
            answers = yield from self._blended(output_kind, rows)
            for client, values in answers.items():
                examples = len(self._federated.shards[client])
                targets[client][output_kind] = values.reshape(-1, examples, values.shape[1])
        return {client: self._backend.share_targets(lessons) for client, lessons in targets.items()}

    def _blended(self, output_kind: OutputKind, rows: ClientRows) -> ByClient:
        """For each client, its teachers' answers made into one."""
        answers = yield from self._of_each(output_kind, rows)
        several = {client: values for client, values in answers.items() if len(values) > 1}
        yield from self._fit_blends(several)
        blended = {client: self._blends[client](_tensors(values)).numpy() for client, values in several.items()}
        return {client: blended[client] if client in blended else answers[client][0] for client in rows}

    def _of_each(self, output_kind: OutputKind, rows: ClientRows) -> Generator[Progress, None, dict[int, list[Values]]]:
        """For each client, what each of its teachers says."""
        answers: dict[int, list[Values]] = {client: [] for client in rows}
        for member in range(len(self._members)):
            having = {client: rows[client] for client in rows if member in self._members_of(client)}
            found = yield from self._of_member(member, output_kind, having)
            for client in having:
                answers[client].append(found[client])
        return answers

    def _fit_blends(self, answers: Mapping[int, list[Values]]) -> Generator[Progress, None, None]:
        """From what their teachers say of their own plain images, which are `answers` unless those are of views."""
        new = {client: values for client, values in answers.items() if client not in self._blends}
        if new and self.augmented:
            new = yield from self._of_each("logits", {client: self._plain(client) for client in new})
        if not new:
            return
        import torch

        from fedray.teachers.ensemble import LogitEnsemble

        for client, values in new.items():
            labels = torch.from_numpy(self._federated.train.labels[self._federated.shards[client]])
            assert isinstance(self._teacher, Ensemble), "one teacher is not blended"
            self._blends[client] = LogitEnsemble.fit(_tensors(values), labels, self._teacher.combine)

    def _plain(self, client: int) -> Indices:
        """The rows of its images as they are, among views."""
        return self._federated.shards[client] * VIEWS + PLAIN

    def _of_member(self, member: int, output_kind: OutputKind, rows: ClientRows) -> ByClient:
        """What one of the teachers says, for each client."""
        spec = self._members[member]
        if not rows:
            return {}
        if isinstance(spec, Precomputed):
            asked = self._federated.train.take(np.concatenate([*rows.values()]))
            return _by_client(PrecomputedTeacher(spec).answers(output_kind, asked), rows)
        if isinstance(spec, Adapted) and spec.method == "linear_probe":
            features = yield from self._ask(member, "features", rows)
            return features if output_kind == "features" else (yield from self._probed(member, features))
        own = isinstance(spec, Adapted)
        return (yield from self._ask(member, output_kind, rows, own=own))

    def _probed(self, member: int, features: Mapping[int, Values]) -> ByClient:
        """A linear probe's logits: its head, fitted on the client's plain images, over features."""
        plain = features
        if self.augmented:
            plain = yield from self._ask(member, "features", {client: self._plain(client) for client in features})
        questions = {client: TeacherQuery(member, "head", client, augmented=self.augmented) for client in features}
        classes = np.arange(len(self._federated.train.classes))
        heads = yield from self._teacher_client.answers(
            dict.fromkeys(questions.values(), classes), {questions[client]: plain[client] for client in features}
        )
        return {
            client: values @ heads[questions[client]][:, :-1].T + heads[questions[client]][:, -1]
            for client, values in features.items()
        }

    def _ask(self, member: int, output_kind: OutputKind, rows: ClientRows, *, own: bool = False) -> ByClient:
        """From the bank. Where the teacher is not a client's own, all clients' rows are one question."""
        if own:
            each = {client: TeacherQuery(member, output_kind, client, augmented=self.augmented) for client in rows}
            answers = yield from self._teacher_client.answers({each[client]: rows[client] for client in rows})
            return {client: answers[each[client]] for client in rows}
        question = TeacherQuery(member, output_kind, augmented=self.augmented)
        answers = yield from self._teacher_client.answers({question: np.concatenate([*rows.values()])})
        return _by_client(answers[question], rows)

    def _members_of(self, client: int) -> tuple[int, ...]:
        return members_of(self._teacher, client, self._experiment.seed)


def check_assignment(experiment: Experiment, federated: FederatedDataset) -> None:
    """Raises SpecError unless a list of assignments has an entry for each client."""
    teacher, clients = experiment.teacher, len(federated.shards)
    if isinstance(teacher, Ensemble) and not isinstance(teacher.assignment, str) and len(teacher.assignment) != clients:
        raise SpecError(f"teacher.assignment has {len(teacher.assignment)} entries, but there are {clients} clients.")


def _tensors(values: Sequence[Values]) -> "list[Tensor]":
    import torch

    return [torch.from_numpy(each) for each in values]


def _by_client(values: Values, rows: ClientRows) -> dict[int, Values]:
    """Cut what was asked at once into what belongs to each client."""
    cuts = np.cumsum([len(own) for own in rows.values()])[:-1]
    return dict(zip(rows, np.split(values, cuts), strict=True))
