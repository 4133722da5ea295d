"""Lists the teacher queries of a round: which rows of which teachers' outputs its targets are computed from."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.views import PLAIN, VIEWS, choose_views
from fedray.teachers.sections import Adapted, Precomputed, members, members_of
from fedray.types import Indices, OutputKind, TeacherQuery

ClientRows: TypeAlias = Mapping[int, Indices]
"""Rows of a query by client: indices of plain images, or `image * VIEWS + view`."""


class RoundQueries:
    """The queries of one experiment, which depend only on its spec and its partition."""

    def __init__(self, experiment: Experiment, federated: FederatedDataset) -> None:
        teacher = experiment.teacher
        self._experiment = experiment
        self._shards = federated.shards
        self._test_images = len(federated.test) if experiment.proxy.reads_features else 0
        self.members = members(teacher)
        self.output_kinds: Sequence[OutputKind] = sorted(experiment.required_outputs)
        self.is_cached = teacher is not None and teacher.mode == "cached" and bool(self.output_kinds)
        """Whether targets are computed before the round; otherwise `of_round` is empty."""
        proxy_view = teacher is not None and teacher.view == "proxy"
        self.augmented = self.is_cached and proxy_view and experiment.data.augment == "crop_flip"
        """Whether each epoch has targets for views of its own; otherwise one set of targets serves all rounds."""

    def of_round(self, number: int, cohort: Sequence[int]) -> dict[TeacherQuery, Indices]:
        """Return the rows of cached outputs that a round needs, some perhaps more than once."""
        if not self.is_cached:
            return {}
        rows = self.rows(number, cohort)
        queries = [self.of_rows(kind, rows) for kind in self.output_kinds]
        if self.augmented and "logits" in self.output_kinds:
            queries.append(self.of_rows("logits", self.plain_rows([c for c in rows if self._needs_plain_rows(c)])))
        merged: dict[TeacherQuery, list[Indices]] = {}
        for query, by_client in (item for part in queries for item in part.items()):
            if not isinstance(self.members[query.member], Precomputed):
                merged.setdefault(query, []).extend(by_client.values())
        return {query: np.concatenate(parts) for query, parts in merged.items()} | self.of_test_set()

    def of_test_set(self) -> dict[TeacherQuery, Indices]:
        """Return the rows of the test set whose features the proxy reads; empty for a proxy of images."""
        rows = np.arange(self._test_images)
        return {TeacherQuery(0, "features", side="test"): rows} if len(rows) else {}

    def rows(self, number: int, cohort: Sequence[int]) -> ClientRows:
        """Return the rows that a round's targets are for: views of the cohort, or the images of all clients."""
        if not self.augmented:
            return {client: shard for client, shard in enumerate(self._shards) if len(shard)}
        strategy, training, sizes = self._experiment.strategy, self._experiment.training, self._sizes(cohort)
        return {
            client: self._view_rows(client, strategy.round_epochs(training, number, n)) for client, n in sizes.items()
        }

    def plain_rows(self, clients: Sequence[int]) -> ClientRows:
        """Return the rows of the clients' unaugmented images among the views."""
        return {client: self._shards[client] * VIEWS + PLAIN for client in clients}

    def of_rows(self, output_kind: OutputKind, rows: ClientRows) -> Mapping[TeacherQuery, ClientRows]:
        """Return the queries whose outputs are read for these rows, with the rows of each client."""
        queries: dict[TeacherQuery, dict[int, Indices]] = {}
        for client, own in rows.items():
            for member in self.members_of(client):
                queries.setdefault(self.source(member, output_kind, client), {})[client] = own
        return queries

    def source(self, member: int, output_kind: OutputKind, client: int) -> TeacherQuery:
        """Return the query that is read for a client's outputs of a member.

        All clients share a query unless the member is fine-tuned for each. A linear probe's logits are computed
        from the features that its backbone has for all clients.
        """
        if self.is_probe(member):
            return TeacherQuery(member, "features", augmented=self.augmented)
        owner = client if isinstance(self.members[member], Adapted) else None
        return TeacherQuery(member, output_kind, owner, augmented=self.augmented)

    def is_probe(self, member: int) -> bool:
        """Whether a member is a linear probe."""
        spec = self.members[member]
        return isinstance(spec, Adapted) and spec.method == "linear_probe"

    def members_of(self, client: int) -> tuple[int, ...]:
        """Return the indices of a client's teachers."""
        return members_of(self._experiment.teacher, client, self._experiment.seed)

    def outputs_used(self, number: int, cohort: Sequence[int]) -> int:
        """Return how many outputs a round's steps, and its evaluation of a linear probe, read.

        It is the number of forward passes that the round would take without a cache.
        """
        if not self.output_kinds:
            return 0
        strategy, training, sizes = self._experiment.strategy, self._experiment.training, self._sizes(cohort)
        tested = self._test_images if self._experiment.is_evaluated(number) else 0
        used = sum(strategy.round_examples(training, n) * len(self.members_of(c)) for c, n in sizes.items())
        return tested + used

    def _sizes(self, clients: Sequence[int]) -> dict[int, int]:
        """Return the number of examples of each client."""
        return {client: len(self._shards[client]) for client in clients}

    def _needs_plain_rows(self, client: int) -> bool:
        """Whether an ensemble or a probe is fitted to outputs of the client's unaugmented images."""
        return len(self.members_of(client)) > 1 or any(map(self.is_probe, self.members_of(client)))

    def _view_rows(self, client: int, epochs: Sequence[int]) -> Indices:
        """[E * n], the rows of the views that the client trains on."""
        examples, seed = self._shards[client], self._experiment.seed
        return np.concatenate([examples * VIEWS + choose_views(examples, seed, epoch) for epoch in epochs])
