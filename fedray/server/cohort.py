"""The cohort of a round: its clients are drawn and trained, and their messages are aggregated."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fedray.aggregation.gathered import aggregate_gathered
from fedray.aggregation.messages import Aggregate, Messages, MessageSums
from fedray.backends.base import Backend, CallFailure, CallResult, LateError, Reducer
from fedray.config.experiment import Experiment
from fedray.errors import RepeatableError, RunError
from fedray.results import checkpoint
from fedray.seeding import numpy_rng
from fedray.types import ArrayGroups, ClientFailure, ClientUpdate, Fault, Indices, Outcome, TargetArrays
from fedray.workers.requests import ClientMessages, ClientTask, Shared, TrainClients

ClientBatch: TypeAlias = Sequence[ClientTask]
"""Clients that one request trains."""

BATCHES_PER_WORKER = 4
"""A batch is this part of a worker's share, if all remaining examples were divided equally among the workers.

A single worker gets one batch: there is no load to balance, and it would idle between two requests."""


@dataclass(frozen=True)
class CohortResult:
    """The result of training a round's cohort."""

    aggregate: Aggregate
    contributors: frozenset[int]  # clients whose messages were aggregated
    state_rounds: dict[int, int]  # this round, for each contributor whose new state was saved
    outcomes: Sequence[Outcome]  # by client id

    @property
    def updates(self) -> list[ClientUpdate]:
        """The outcomes of the contributors, by client id."""
        updates = [outcome for outcome in self.outcomes if isinstance(outcome, ClientUpdate)]
        return [update for update in updates if update.client in self.contributors]


def draw_cohort(experiment: Experiment, shards: Sequence[Indices], number: int) -> list[int]:
    """Return the clients of a round, drawn by (seed, round) from the clients that hold examples."""
    holders = [client for client, shard in enumerate(shards) if len(shard)]
    size = experiment.training.cohort_size(len(holders))
    return sorted(numpy_rng(experiment.seed, "cohort", number).choice(holders, size, replace=False).tolist())


class CohortTrainer:
    """Trains the clients of a round on a backend."""

    def __init__(self, experiment: Experiment, backend: Backend, checkpoint_folder: Path) -> None:
        """`checkpoint_folder` holds the clients' states."""
        self._strategy, self._training, self._rule = experiment.strategy, experiment.training, experiment.aggregation
        self._backend, self._folder, self._keeps_state = backend, checkpoint_folder, experiment.keeps_client_state

    def train(
        self,
        number: int,
        cohort: Sequence[int],
        broadcast: Shared[ArrayGroups],
        targets: Mapping[int, Shared[TargetArrays]],
        state_rounds: Mapping[int, int],
        trained: Sequence[str],
    ) -> CohortResult:
        """Train the clients of round `number`; `state_rounds` is the round of each client's saved state.

        `trained` are the names of the proxy's trained parameters.

        Raises RunError as soon as more clients fail than the spec allows, LostError where weights were lost with a
        node.
        """
        sums, gathered = self._backend.reducer(), dict[int, Shared[ClientMessages | None]]()
        outcomes, new_states = list[Outcome](), dict[int, int]()
        start, waiting = time.perf_counter(), self._batches(number, cohort, targets, state_rounds)
        while waiting:
            requests, retried = [TrainClients(tuple(batch), broadcast) for batch in waiting], list[ClientBatch]()
            for result in self._backend.run(requests, self._timeout_s):
                batch = waiting[result.index]
                if isinstance(result, CallFailure) and len(batch) > 1:
                    retried += [[task] for task in batch]  # each alone: one of them may be what ends the process
                    continue
                if isinstance(result, CallResult):
                    has_update = any(isinstance(outcome, ClientUpdate) for outcome in result.value)
                    if has_update and self._rule.needs_all:
                        gathered[batch[0].client] = result.messages
                    elif has_update:
                        sums.add(result)
                    new_states |= self._save_state(result, batch[0])
                new = result.value if isinstance(result, CallResult) else _failures(batch, result)
                self._report_late(new, time.perf_counter() - start)
                outcomes += new
                self._check_failures(outcomes, len(cohort))
            waiting = retried
        outcomes.sort(key=lambda outcome: outcome.client)
        return self._aggregate(sums, gathered, trained, new_states, outcomes)

    def _aggregate(
        self,
        sums: Reducer,
        gathered: Mapping[int, Shared[ClientMessages | None]],
        trained: Sequence[str],
        new_states: Mapping[int, int],
        outcomes: Sequence[Outcome],
    ) -> CohortResult:
        """Combine the messages; clients that the rule leaves out keep their old state."""
        if self._rule.needs_all:
            aggregate, clients = aggregate_gathered(self._rule, _received(gathered), trained)
        else:
            aggregate = sums.total().aggregate()
            clients = [outcome.client for outcome in outcomes if isinstance(outcome, ClientUpdate)]
        contributors = frozenset(clients)
        states = {client: number for client, number in new_states.items() if client in contributors}
        return CohortResult(aggregate, contributors, states, outcomes)

    def _batches(
        self,
        number: int,
        cohort: Sequence[int],
        targets: Mapping[int, Shared[TargetArrays]],
        state_rounds: Mapping[int, int],
    ) -> list[ClientBatch]:
        """The tasks of a cohort, in batches. A client that has state, a deadline or to be compared is its own batch."""
        workers, shards = self._backend.parallelism, self._backend.federated.shards
        parts: int | None = BATCHES_PER_WORKER * workers if workers > 1 else 1
        if self._keeps_state or self._rule.needs_all or self._training.deadline is not None:
            parts = None
        files = {
            client: checkpoint.client_file(self._folder, client, state_rounds[client])
            for client in cohort
            if client in state_rounds
        }
        return [
            [ClientTask(number, client, targets.get(client), files.get(client)) for client in batch]
            for batch in batch_clients({client: len(shards[client]) for client in cohort}, parts)
        ]

    @property
    def _timeout_s(self) -> float | None:
        return self._training.deadline if self._training.late == "drop" else None

    def _save_state(self, result: CallResult[Sequence[Outcome]], task: ClientTask) -> dict[int, int]:
        """Save a client's state, if the strategy has any; return its id and the round."""
        if not self._keeps_state or isinstance(result.value[0], ClientFailure):
            return {}
        state = result.client_state.get()
        assert state is not None, "a client of this strategy returns its state"
        checkpoint.save_client(self._folder, task.client, task.round, state)
        return {task.client: task.round}

    def _report_late(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        deadline = self._training.deadline
        if self._training.late == "wait" and deadline is not None and seconds > deadline:
            reason = f"finished after {seconds:.1f} s, the deadline was {deadline:g} s"
            self._backend.faults += [
                Fault("client late", f"client {outcome.client}", "", "waited for", reason) for outcome in outcomes
            ]

    def _check_failures(self, outcomes: Sequence[Outcome], cohort: int) -> None:
        """Raises RunError if more clients have failed than the spec allows."""
        failures = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
        in_time = [failure for failure in failures if not failure.late]
        if in_time and self._training.failures == "abort":
            raise _error_of(in_time[0])(f"{in_time[0]}\n{in_time[0].traceback}".rstrip())
        if failures and cohort - len(failures) < self._training.min_cohort:
            raise _error_of(failures[-1])(
                f"{len(failures)} of {cohort} clients failed, which leaves fewer than "
                f"training.min_cohort={self._training.min_cohort}: {failures[-1]}\n{failures[-1].traceback}".rstrip()
            )


def _error_of(failure: ClientFailure) -> type[RunError]:
    return RepeatableError if failure.is_repeatable else RunError


def batch_clients(sizes: Mapping[int, int], parts: int | None) -> list[list[int]]:
    """Group clients, largest first, into batches of a `parts`-th of the remaining examples; None: one client each.

    `sizes` is the number of examples by client. A request costs as much as training a few examples, so most batches
    are large; the last ones are small, which balances the load.
    """
    batches, capacity, remaining = list[list[int]](), 0.0, sum(sizes.values())
    for client in sorted(sizes, key=lambda client: -sizes[client]):
        if capacity <= 0:
            batches.append([])
            capacity = remaining / parts if parts else 0.0
        batches[-1].append(client)
        capacity -= sizes[client]
        remaining -= sizes[client]
    return batches


def _received(gathered: Mapping[int, Shared[ClientMessages | None]]) -> dict[int, Messages]:
    """Return each client's messages by id. Raises LostError where they were lost with a node."""
    messages: dict[int, Messages] = {}
    for client, shared in gathered.items():
        received = shared.get()
        assert received is not None and not isinstance(received, MessageSums), "a request trains one client"  # noqa: PT018
        messages[client] = received
    return messages


def _failures(batch: ClientBatch, failure: CallFailure) -> list[ClientFailure]:
    """A failure of each client of a request that failed as a whole."""
    error, late = failure.error, isinstance(failure.error, LateError)
    reason = str(error) if late else f"{type(error).__name__}: {error}"
    return [
        ClientFailure(task.client, task.round, failure.node, reason, failure.traceback, late=late) for task in batch
    ]
