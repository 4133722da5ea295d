"""Builds each client's distillation targets for a round from the outputs of its teachers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedray.backends.base import Backend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import SpecError
from fedray.results.costs import TeacherCosts
from fedray.server.teacher_client import TeacherClient
from fedray.server.teacher_queries import ClientRows, RoundQueries
from fedray.teachers.cache import OutputArray
from fedray.teachers.class_check import check_classes
from fedray.teachers.sections import Ensemble
from fedray.training.evaluation import EvalCounts
from fedray.types import ImageShape, Indices, OnProgress, OutputKind, Row, TargetArrays, TeacherQuery
from fedray.workers.requests import Shared

if TYPE_CHECKING:
    from torch import Tensor

    from fedray.teachers.ensemble import LogitEnsemble


class TeacherTargets:
    """Targets for `mode: cached`. With `mode: online`, or without a teacher, there are none to build."""

    def __init__(
        self, experiment: Experiment, federated: FederatedDataset, backend: Backend, teacher_client: TeacherClient
    ) -> None:
        self._teacher = experiment.teacher
        self._federated = federated
        self._backend = backend
        self._teacher_client = teacher_client
        self.queries = RoundQueries(experiment, federated)
        self._ensembles: dict[int, LogitEnsemble] = {}
        self._of_plain_images: dict[int, Shared[TargetArrays]] = {}
        self._reads_features = experiment.proxy.reads_features
        self._feature_scale: np.float32 | None = None  # root mean square of the features of all clients
        self._of_test_set: Shared[TargetArrays] | None = None
        self._counted = TeacherCosts()  # costs up to the end of the last round

    def of_round(self, number: int, cohort: Sequence[int], on_progress: OnProgress) -> dict[int, Shared[TargetArrays]]:
        """Return a handle to each client's targets: `logits` [E, n, classes] or `features` [E, n, d].

        E is the number of local epochs where each epoch has views of its own, else 1.
        """
        if not self.queries.is_cached:
            return {}
        if self.queries.augmented:
            return self._share(self.queries.rows(number, cohort), on_progress)
        if not self._of_plain_images:
            self._of_plain_images = self._share(self.queries.rows(number, cohort), on_progress)
        return self._of_plain_images

    @property
    def facts(self) -> Row:
        """The number that a linear probe's inputs are divided by, once it is known."""
        return {} if self._feature_scale is None else {"feature_scale": float(self._feature_scale)}

    def input_shape(self, on_progress: OnProgress) -> ImageShape | None:
        """Return the shape of the features that the proxy reads, from one of them; None for a proxy of images."""
        if not self._reads_features:
            return None
        first = next(iter(self.queries.rows(1, ()).values()))[:1]
        (features,) = self._teacher_client.outputs({TeacherQuery(0, "features"): first}, on_progress).values()
        return ImageShape(features.shape[1], 1, len(self._federated.train.classes))

    def of_test_set(self, on_progress: OnProgress) -> Shared[TargetArrays] | None:
        """Return a handle to the features [1, N, d] of the test set; None for a proxy of images.

        They have the scale of the clients' features, which `of_round` has set before.
        """
        if self._reads_features and self._of_test_set is None:
            (features,) = self._teacher_client.outputs(self.queries.of_test_set(), on_progress).values()
            assert self._feature_scale is not None, "`of_round` has set it"
            self._of_test_set = self._backend.share_targets({"features": features[None] / self._feature_scale})
        return self._of_test_set

    def columns(self, number: int, cohort: Sequence[int], clients: Sequence[Row]) -> Row:
        """Return the outputs that a round used and the costs since the last call, cached or online.

        `clients` are the rows of the round's clients.
        """
        costs, before = self._teacher_client.costs, self._counted
        passes, flops, seconds = (
            sum(row[f"teacher_{name}"] for row in clients) for name in ("forward_passes", "flops", "seconds")
        )
        self._counted = replace(costs)
        return {
            "teacher_outputs_used": self.queries.outputs_used(number, cohort),
            "teacher_forward_passes": costs.forward_passes - before.forward_passes + passes,
            "teacher_flops": costs.flops - before.flops + flops,
            "teacher_seconds": round(costs.seconds - before.seconds + seconds, 3),
        }

    def predictions(self) -> EvalCounts | None:
        """Count the teachers' predictions for the clients' unaugmented examples; None where they are unknown."""
        if not self._of_plain_images or "logits" not in self.queries.output_kinds:
            return None
        train, shards = self._federated.train, self._federated.shards
        labels = np.concatenate([train.labels[shards[client]] for client in self._of_plain_images])
        logits = (shared.get()["logits"][0] for shared in self._of_plain_images.values())
        return EvalCounts(labels, np.concatenate([own.argmax(1) for own in logits]), len(train.classes))

    def _share(self, rows: ClientRows, on_progress: OnProgress) -> dict[int, Shared[TargetArrays]]:
        """Combine the outputs of each client's teachers, and put them where workers can read them."""
        targets: dict[int, TargetArrays] = {client: {} for client in rows}
        for output_kind in self.queries.output_kinds:
            outputs = self._outputs(output_kind, rows, on_progress)
            self._fit_ensembles(outputs, on_progress)
            for client, own in outputs.items():
                combined = self._ensembles[client](_tensors(own)).numpy() if len(own) > 1 else own[0]
                examples = len(self._federated.shards[client])
                targets[client][output_kind] = combined.reshape(-1, examples, combined.shape[1])
        if self._reads_features:
            self._feature_scale = root_mean_square([own["features"] for own in targets.values()])
            targets = {client: {"features": own["features"] / self._feature_scale} for client, own in targets.items()}
        return {client: self._backend.share_targets(own) for client, own in targets.items()}

    def _outputs(
        self, output_kind: OutputKind, rows: ClientRows, on_progress: OnProgress
    ) -> dict[int, list[OutputArray]]:
        """Return the outputs of each of a client's teachers, by client."""
        queries = self.queries.of_rows(output_kind, rows)
        outputs = _split(self._teacher_client.outputs(_concatenate(queries), on_progress), queries)
        heads = self._fit_heads(outputs, on_progress) if output_kind == "logits" else {}
        return {
            client: [
                _apply_head(
                    outputs[self.queries.source(member, output_kind, client)][client], heads.get((member, client))
                )
                for member in self.queries.members_of(client)
            ]
            for client in rows
        }

    def _fit_ensembles(self, outputs: Mapping[int, list[OutputArray]], on_progress: OnProgress) -> None:
        """Fit the ensembles of new clients to logits of their plain images: `outputs`, unless those are of views."""
        new = {client: own for client, own in outputs.items() if len(own) > 1 and client not in self._ensembles}
        if not new:
            return
        if self.queries.augmented:
            new = self._outputs("logits", self.queries.plain_rows([*new]), on_progress)
        import torch

        from fedray.teachers.ensemble import LogitEnsemble

        assert isinstance(self._teacher, Ensemble), "a single teacher is not combined"
        for client, own in new.items():
            labels = torch.from_numpy(self._federated.train.labels[self._federated.shards[client]])
            self._ensembles[client] = LogitEnsemble.fit(_tensors(own), labels, self._teacher.combine)

    def _fit_heads(
        self, outputs: Mapping[TeacherQuery, Mapping[int, OutputArray]], on_progress: OnProgress
    ) -> dict[tuple[int, int], OutputArray]:
        """Return the heads of linear probes by (member, client), fitted to features of the clients' plain images."""
        features = {query: own for query, own in outputs.items() if self.queries.is_probe(query.member)}
        if not features:
            return {}
        if self.queries.augmented:
            plain = {query: self.queries.plain_rows([*own]) for query, own in features.items()}
            features = _split(self._teacher_client.outputs(_concatenate(plain), on_progress), plain)
        head_features = {
            TeacherQuery(query.member, "head", client, augmented=self.queries.augmented): own
            for query, by_client in features.items()
            for client, own in by_client.items()
        }
        rows = dict.fromkeys(head_features, np.arange(len(self._federated.train.classes)))
        heads = self._teacher_client.outputs(rows, on_progress, head_features)
        return {(query.member, query.client): head for query, head in heads.items() if query.client is not None}


def root_mean_square(arrays: Sequence[OutputArray]) -> np.float32:
    """Return the root of the mean square of arrays [..., d]; the order of the rows does not change a bit of it."""
    sums = [np.square(array, dtype=np.float64).sum(-1).ravel() for array in arrays]
    total = math.fsum(value for part in sums for value in part.tolist())
    return np.float32(max(math.sqrt(total / sum(array.size for array in arrays)), 1e-12))


def check_teacher(experiment: Experiment, federated: FederatedDataset) -> None:
    """Raises SpecError where a teacher does not fit the number of clients or the classes of the data."""
    teacher, clients = experiment.teacher, len(federated.shards)
    if isinstance(teacher, Ensemble) and not isinstance(teacher.assignment, str) and len(teacher.assignment) != clients:
        raise SpecError(f"teacher.assignment has {len(teacher.assignment)} entries, but there are {clients} clients.")
    if experiment.strategy.required_outputs:
        check_classes(teacher, federated.train)


def _apply_head(outputs: OutputArray, head: OutputArray | None) -> OutputArray:
    """Return a linear probe's logits of features [n, d]; without a head, the outputs themselves."""
    return outputs if head is None else outputs @ head[:, :-1].T + head[:, -1]


def _tensors(arrays: Sequence[OutputArray]) -> "list[Tensor]":
    import torch

    return [torch.from_numpy(array) for array in arrays]


def _concatenate(queries: Mapping[TeacherQuery, ClientRows]) -> dict[TeacherQuery, Indices]:
    """Join the rows of all clients: an entry of the cache is read once, not once per client."""
    return {query: np.concatenate([*rows.values()]) for query, rows in queries.items()}


def _split(
    outputs: Mapping[TeacherQuery, OutputArray], queries: Mapping[TeacherQuery, ClientRows]
) -> dict[TeacherQuery, Mapping[int, OutputArray]]:
    """Split the outputs of joined rows by client."""
    return {
        query: dict(zip(rows, np.split(outputs[query], np.cumsum([*map(len, rows.values())])[:-1]), strict=True))
        for query, rows in queries.items()
    }
