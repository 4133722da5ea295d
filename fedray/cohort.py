"""The clients of a round: trained, their proxies added up, their failures tolerated or not."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedray import rows
from fedray.aggregation import ExactMean
from fedray.backends.base import Answer, Backend, Failure, Handle, LateError
from fedray.config import Experiment
from fedray.data.federation import Federation
from fedray.errors import RefusedError, RunError
from fedray.types import ClientFailure, ClientTask, ClientUpdate, Fault


@dataclass(frozen=True)
class Trained:
    """What has come of a round's clients."""

    mean: ExactMean
    kept: dict[int, Handle]  # of those that keep something
    outcomes: Sequence[rows.Outcome]  # by client


class Cohort:
    """Trains whoever is drawn, on one backend."""

    def __init__(self, experiment: Experiment, federation: Federation, backend: Backend) -> None:
        self._strategy, self._training = experiment.strategy, experiment.training
        self._federation = federation
        self._backend = backend

    def train(
        self,
        number: int,
        clients: Sequence[int],
        weights: Handle,
        taught: Mapping[int, Handle],
        kept: Mapping[int, Handle],
    ) -> Trained:
        """A round. Raises RunError as soon as more fails than the spec allows, LostError as `Backend.map` does."""
        largest_first = sorted(clients, key=lambda client: -len(self._federation.shards[client]))
        tasks = [ClientTask(number, client) for client in largest_first]
        calls = [(task, weights, taught.get(task.client), kept.get(task.client)) for task in tasks]
        total, keeping, outcomes = self._backend.total(), dict[int, Handle](), list[rows.Outcome]()
        start = time.perf_counter()
        for answer in self._backend.map("train", calls, self._limit):
            outcomes.append(_outcome(tasks[answer.call], answer))
            self._note_late(tasks[answer.call], time.perf_counter() - start)
            if isinstance(answer, Answer):
                total.add(answer, self._strategy.weight(answer.value.examples))
                keeping |= {answer.value.client: answer.kept} if self._strategy.keeps else {}
            self._tolerate(outcomes, len(clients))
        return Trained(total.mean(), keeping, sorted(outcomes, key=lambda outcome: outcome.client))

    @property
    def _limit(self) -> float | None:
        """Seconds after which nobody waits any more."""
        return self._training.deadline if self._training.late == "drop" else None

    def _note_late(self, task: ClientTask, seconds: float) -> None:
        deadline = self._training.deadline
        if self._training.late == "wait" and deadline is not None and seconds > deadline:
            after = f"after {seconds:.1f} s, the deadline was {deadline:g} s"
            self._backend.faults.append(Fault("client late", f"client {task.client}", "", "waited for", after))

    def _tolerate(self, outcomes: Sequence[rows.Outcome], cohort: int) -> None:
        """Raises RunError as soon as a round has more failures than the spec allows."""
        failures = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
        refused = [failure for failure in failures if not failure.late]
        training = self._training
        if refused and training.failures == "abort":
            raise RunError(f"{refused[0]}\n{refused[0].traceback}".rstrip())
        if failures and cohort - len(failures) < training.min_cohort:
            raise RunError(
                f"{len(failures)} of {cohort} clients failed, fewer than training.min_cohort={training.min_cohort} "
                f"are left: {failures[-1]}\n{failures[-1].traceback}".rstrip()
            )


def _outcome(task: ClientTask, answer: Answer | Failure) -> rows.Outcome:
    """The client's update, or why there is none."""
    if isinstance(answer, Answer):
        update: ClientUpdate = answer.value
        return update
    error, late = answer.error, isinstance(answer.error, LateError)
    if late or isinstance(error, RefusedError):  # where it was raised says nothing
        return ClientFailure(task.client, task.round, answer.node, str(error), late=late)
    reason = f"{type(error).__name__}: {error}"
    return ClientFailure(task.client, task.round, answer.node, reason, answer.traceback)
