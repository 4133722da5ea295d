"""The outer loop: rounds of sampling, local training, aggregation and evaluation."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedray import checkpoint, costs, lessons, rows
from fedray.aggregation import ExactMean
from fedray.asking import Asker, Costs
from fedray.backends.base import Answer, Backend, Failure, Handle
from fedray.backends.plan import draw_cohort
from fedray.config import Experiment
from fedray.data import federation
from fedray.data.federation import Federation, ReadSets, read_sets
from fedray.environment import environment
from fedray.errors import RunError, SpecError
from fedray.evaluation import Tally
from fedray.models.weights import check_weights, nbytes
from fedray.results import Folder, Tables
from fedray.teachers.bank import Bank
from fedray.types import Asking, ClientFailure, ClientTask, ClientUpdate, RoundResult, Row, ServerState, Weights
from fedray.worker import Range, initial_weights

PART = 1000
"""How many images one call evaluates; fixed, so that sums do not depend on the workers."""

MakeBackend = Callable[[Experiment, Federation], Backend]


class Driver:
    """Runs one experiment into one folder, from its beginning or from its last checkpoint.

    A plain class: `fedray run` puts it into an actor, the serial backend and tests do not.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        make_backend: MakeBackend | None = None,
        command: Sequence[str] = (),
        cache: Path | None = None,
        read: ReadSets = read_sets,
        patience: float = 0,
    ) -> None:
        """`patience`: seconds to wait for another run to leave the folder."""
        torch.set_num_threads(experiment.resources.threads)  # and nothing else: the driver leaves GPUs alone
        self._experiment = experiment
        self._command = command or sys.argv
        self._folder = Folder(folder)
        self._folder.path.mkdir(parents=True, exist_ok=True)
        self._patience = patience
        self._data = federation.load(experiment, read)
        self._first_weights = initial_weights(experiment.proxy, self._data, experiment.seed, "proxy")
        lessons.check_assignment(experiment, self._data)
        self._backend = (make_backend or _backend_of(experiment))(experiment, self._data)
        self._asker = Asker(experiment, self._data, self._backend, Bank(cache))
        self._lessons = lessons.Lessons(experiment, self._data, self._backend, self._asker)
        self._kept: dict[int, Handle] = {}
        self._shared: tuple[int, Handle] = (-1, None)

    def run(self) -> Iterator[Asking | RoundResult]:
        """Yield each round as soon as it is on disk, and before it how far the teachers' answers are.

        Raises SpecError for a spec that cannot be run, RunError where clients or teachers fail.
        """
        losses = rows.loss_columns(self._experiment.strategy)
        try:
            with self._folder.lock(self._patience):
                state = self._restore()
                self._describe()
                with self._folder.tables(losses, state.round) as tables:
                    yield from self._run_rounds(state, tables)
        finally:
            self._backend.close()

    def _run_rounds(self, state: ServerState, tables: Tables) -> Iterator[Asking | RoundResult]:
        rounds, first = self._experiment.training.rounds, state.round
        if state.round < rounds:
            self._backend.ready()  # so that the first round's seconds are its own
        while state.round < rounds:
            start, before = time.perf_counter(), replace(self._asker.costs)
            cohort = self.sample(state.round + 1)
            taught = yield from self._lessons.of_round(state.round + 1, cohort)
            if state.round == first:
                self._describe(self._lessons.accuracy())
            state, report = self.run_round(state, cohort, taught)
            report.round["seconds"] = round(time.perf_counter() - start, 3)
            report.round.update(self._taught(cohort, before, report))
            tables.write(report)
            if self._is_due(self._experiment.checkpoint.every, state.round):
                self._save(state)
            yield RoundResult(state.round, rounds, report.round)
        costs.write(self._folder.path, self._experiment, self._data, self._asker.costs)
        checkpoint.save_weights(self._folder.model, state.weights)

    def _taught(self, cohort: Sequence[int], before: Costs, report: rows.Report) -> Row:
        """What the teachers did for a round, in the bank's name or beside the clients."""

        def spent(what: str) -> Any:
            beside = sum(row[f"teacher_{what}"] for row in report.clients)
            return getattr(self._asker.costs, what) - getattr(before, what) + beside

        return {
            "teacher_asked": self._lessons.asked(cohort),
            "teacher_passes": spent("passes"),
            "teacher_flops": spent("flops"),
            "teacher_seconds": round(spent("seconds"), 3),
        }

    def run_round(
        self, state: ServerState, cohort: Sequence[int], taught: Mapping[int, Handle]
    ) -> tuple[ServerState, rows.Report]:
        """Train a cohort on what it is taught, average its proxies, evaluate the average."""
        mean, outcomes = self._train(cohort, state, taught)
        state = ServerState(state.round + 1, mean.mean(like=state.weights))
        due = self._is_due(self._experiment.evaluation.every, state.round)
        tally = self._evaluate(state) if due else None
        return state, rows.report(state.round, outcomes, tally, self._data, nbytes(state.weights))

    def sample(self, number: int) -> list[int]:
        """The cohort of a round, drawn for (seed, round) among the clients that hold examples."""
        return draw_cohort(self._experiment, self._data.shards, number)

    def _train(
        self, cohort: Sequence[int], state: ServerState, taught: Mapping[int, Handle]
    ) -> tuple[ExactMean, list[rows.Outcome]]:
        largest_first = sorted(cohort, key=lambda client: -len(self._data.shards[client]))
        tasks = [ClientTask(state.round + 1, client) for client in largest_first]
        weights = self._share(state)
        calls = [(task, weights, taught.get(task.client), self._kept.get(task.client)) for task in tasks]
        mean, outcomes = ExactMean(), list[rows.Outcome]()
        for answer in self._backend.map("train", calls):
            outcome = _checked(tasks[answer.call], answer, state.weights)
            if isinstance(outcome, ClientUpdate):
                mean.add(outcome.weights, self._weight(outcome))
                self._keep(outcome.client, answer)
                outcome = rows.without_weights(outcome)
            outcomes.append(outcome)
            self._tolerate(outcomes, len(cohort))
        return mean, sorted(outcomes, key=lambda outcome: outcome.client)

    def _keep(self, client: int, answer: Answer | Failure) -> None:
        if isinstance(answer, Answer) and self._experiment.strategy.keeps:
            self._kept[client] = answer.kept

    def _weight(self, update: ClientUpdate) -> int:
        return update.examples if self._experiment.strategy.weighting == "examples" else 1

    def _tolerate(self, outcomes: Sequence[rows.Outcome], cohort: int) -> None:
        """Raises RunError as soon as a round has more failures than the spec allows."""
        failures = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
        training = self._experiment.training
        if failures and training.failures == "abort":
            raise RunError(f"{failures[0]}\n{failures[0].traceback}".rstrip())
        if failures and cohort - len(failures) < training.min_cohort:
            raise RunError(
                f"{len(failures)} of {cohort} clients failed, fewer than training.min_cohort={training.min_cohort} "
                f"are left: {failures[-1]}\n{failures[-1].traceback}".rstrip()
            )

    def _evaluate(self, state: ServerState) -> Tally:
        weights = self._share(state)
        calls = [(part, weights) for part in _parts(len(self._data.test))]
        first, *others = self._backend.collect("evaluate", calls)
        total: Tally = sum(others, start=first)
        return total

    def _describe(self, teacher_accuracy: float | None = None) -> None:
        """Write what this run is: its spec, its environment, its partition."""
        facts = environment(self._experiment, self._command)
        if teacher_accuracy is not None:
            facts["teacher_accuracy"] = teacher_accuracy
        self._folder.describe(self._experiment, facts)
        self._folder.write_partition(self._data)

    def _share(self, state: ServerState) -> Handle:
        """The weights go out once, and serve the evaluation and the next round's clients."""
        if self._shared[0] != state.round:
            self._shared = (state.round, self._backend.share(state.weights))
        return self._shared[1]

    def _save(self, state: ServerState) -> None:
        private = ((client, self._backend.fetch(handle)) for client, handle in self._kept.items())
        checkpoint.save(self._folder.checkpoint, state, private)

    def _restore(self) -> ServerState:
        found = checkpoint.load(self._folder.checkpoint)
        if found is None:
            return ServerState(0, self._first_weights)
        state, private = found
        if problem := check_weights(state.weights, self._first_weights):
            raise SpecError(f"'{self._folder.checkpoint}' does not fit this spec: {problem}")
        self._kept = {client: self._backend.share(weights) for client, weights in private.items()}
        return state

    def _is_due(self, every: int, number: int) -> bool:
        return number % every == 0 or number == self._experiment.training.rounds


def _parts(count: int) -> list[Range]:
    return [(start, min(start + PART, count)) for start in range(0, count, PART)]


def _checked(task: ClientTask, answer: Answer | Failure, like: Weights) -> rows.Outcome:
    """The client's update if there is one that the server can use, else why not."""
    if isinstance(answer, Failure):
        reason = f"{type(answer.error).__name__}: {answer.error}"
        return ClientFailure(task.client, task.round, answer.node, reason, answer.traceback)
    update: ClientUpdate = answer.value
    problem = check_weights(update.weights, like)
    return (
        ClientFailure(task.client, task.round, update.node, f"its update is refused, {problem}") if problem else update
    )


def _backend_of(experiment: Experiment) -> Any:
    if experiment.resources.backend == "serial":
        from fedray.backends.serial import SerialBackend

        return SerialBackend
    from fedray.backends.ray_actors import RayBackend

    return RayBackend
