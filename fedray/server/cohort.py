"""The clients of a round: trained, their proxies added up, their failures tolerated or not."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from fedray.aggregation.exact_mean import ExactMean
from fedray.backends.base import Backend, CallFailure, CallResult, Handle, LateError
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.errors import RunError
from fedray.results import checkpoint, rows
from fedray.types import ClientFailure, ClientTask, ClientUpdate, Fault

ClientBatch: TypeAlias = tuple[ClientTask, ...]
"""Clients that one call trains."""

BATCHES_PER_WORKER = 4
"""A call takes one part in so many of what a worker would have yet to do, if all that is left were spread evenly.

A lone worker has it all at once: there is nobody to even out with, and between two calls it would have to wait."""


@dataclass(frozen=True)
class CohortResult:
    """What has come of a round's clients."""

    mean: ExactMean
    kept: dict[int, int]  # the round, of those that keep something of it
    outcomes: Sequence[rows.Outcome]  # by client


class Cohort:
    """Trains whoever is drawn, on one backend."""

    def __init__(self, experiment: Experiment, federated: FederatedDataset, backend: Backend, folder: Path) -> None:
        """`folder` is the checkpoints', with the private models."""
        self._strategy, self._training = experiment.strategy, experiment.training
        self._federated = federated
        self._backend, self._folder = backend, folder

    def train(
        self,
        number: int,
        clients: Sequence[int],
        weights: Handle,
        targets: Mapping[int, Handle],
        kept: Mapping[int, int],
    ) -> CohortResult:
        """A round. Raises RunError as soon as more fails than the spec allows, LostError as `Backend.map` does."""
        sizes = {client: len(self._federated.shards[client]) for client in clients}
        workers = self._backend.at_once
        parts = (BATCHES_PER_WORKER * workers if workers > 1 else 1) if self._share_calls else None
        bundles = [tuple(ClientTask(number, client) for client in bundle) for bundle in batch_clients(sizes, parts)]
        private = {each: checkpoint.private_file(self._folder, each, kept[each]) for each in clients if each in kept}
        given = {client: (targets.get(client), private.get(client)) for client in clients}
        total, keeping, outcomes = self._backend.total(), dict[int, int](), list[rows.Outcome]()
        failed, start = list[ClientFailure](), time.perf_counter()
        for bundle, answer in self._answers(bundles, weights, given):
            new = _client_outcomes(bundle, answer)
            outcomes += new
            self._note_late(new, time.perf_counter() - start)
            if isinstance(answer, CallResult) and (updates := [each for each in new if isinstance(each, ClientUpdate)]):
                total.add(answer, sum(self._strategy.weight(update.examples) for update in updates))
                if self._strategy.client_model:
                    checkpoint.save_private(self._folder, bundle[0].client, number, self._backend.fetch(answer.kept))
                    keeping[bundle[0].client] = number
            if failures := [each for each in new if isinstance(each, ClientFailure)]:
                failed += failures
                self._tolerate(failed, len(clients))
        return CohortResult(total.mean(), keeping, sorted(outcomes, key=lambda outcome: outcome.client))

    def _answers(
        self, bundles: Sequence[ClientBatch], weights: Handle, given: Mapping[int, tuple[Handle, Handle]]
    ) -> Iterator[tuple[ClientBatch, CallResult | CallFailure]]:
        """As the calls are done. Where several clients have lost their workers together, each is tried by itself."""
        each = [zip(*(given[task.client] for task in bundle), strict=True) for bundle in bundles]
        calls = [(bundle, weights, *chain(*pair)) for bundle, pair in zip(bundles, each, strict=True)]
        lost = list[ClientBatch]()
        for answer in self._backend.map("train_all", calls, self._limit):
            bundle = bundles[answer.call]
            if isinstance(answer, CallFailure) and len(bundle) > 1:
                lost += [(task,) for task in bundle]
            else:
                yield bundle, answer
        if lost:
            yield from self._answers(lost, weights, given)

    @property
    def _share_calls(self) -> bool:
        """Not where each client has something of its own to send or a deadline to meet."""
        return not self._strategy.client_model and self._training.deadline is None

    @property
    def _limit(self) -> float | None:
        """Seconds after which nobody waits any more."""
        return self._training.deadline if self._training.late == "drop" else None

    def _note_late(self, outcomes: Sequence[rows.Outcome], seconds: float) -> None:
        deadline = self._training.deadline
        if self._training.late == "wait" and deadline is not None and seconds > deadline:
            after = f"after {seconds:.1f} s, the deadline was {deadline:g} s"
            self._backend.faults += [
                Fault("client late", f"client {outcome.client}", "", "waited for", after) for outcome in outcomes
            ]

    def _tolerate(self, failures: Sequence[ClientFailure], cohort: int) -> None:
        """Raises RunError as soon as a round has more failures than the spec allows."""
        refused = [failure for failure in failures if not failure.late]
        training = self._training
        if refused and training.failures == "abort":
            raise RunError(f"{refused[0]}\n{refused[0].traceback}".rstrip())
        if failures and cohort - len(failures) < training.min_cohort:
            raise RunError(
                f"{len(failures)} of {cohort} clients failed, fewer than training.min_cohort={training.min_cohort} "
                f"are left: {failures[-1]}\n{failures[-1].traceback}".rstrip()
            )


def batch_clients(sizes: Mapping[int, int], parts: int | None) -> list[list[int]]:
    """Clients by their examples, largest first, in bundles that each have a `parts`-th of what is left.

    A call costs as much as training a few examples: so there are few and large ones, and small ones at the end to even
    out. None: each client by itself.
    """
    bundles, room, left = list[list[int]](), 0.0, sum(sizes.values())
    for client in sorted(sizes, key=lambda client: -sizes[client]):
        if room <= 0:
            bundles.append([])
            room = left / parts if parts else 0.0
        bundles[-1].append(client)
        room -= sizes[client]
        left -= sizes[client]
    return bundles


def _client_outcomes(bundle: ClientBatch, answer: CallResult | CallFailure) -> Sequence[rows.Outcome]:
    """Of each client its update, or why there is none."""
    if isinstance(answer, CallResult):
        outcomes: Sequence[rows.Outcome] = answer.value
        return outcomes
    error, late = answer.error, isinstance(answer.error, LateError)
    reason = str(error) if late else f"{type(error).__name__}: {error}"
    return [ClientFailure(task.client, task.round, answer.node, reason, answer.traceback, late=late) for task in bundle]
