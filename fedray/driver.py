"""The outer loop: rounds of sampling, local training, aggregation and evaluation."""

import platform
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fedray import checkpoint, costs, lessons, rows
from fedray.aggregation import ExactMean
from fedray.asking import Asker, Costs
from fedray.backends.base import Answer, Backend, Failure, Handle, LateError
from fedray.backends.plan import draw_cohort
from fedray.config import Experiment
from fedray.data import federation
from fedray.data.federation import Federation, ReadSets, read_sets
from fedray.environment import environment
from fedray.errors import LostError, RefusedError, RunError, SpecError
from fedray.evaluation import Tally
from fedray.folder import Folder
from fedray.models.weights import check_weights, nbytes
from fedray.tables import Tables
from fedray.teachers.bank import Bank
from fedray.types import (
    ClientFailure,
    ClientTask,
    ClientUpdate,
    Event,
    Fault,
    RoundResult,
    Row,
    ServerState,
    Wait,
    Waiting,
)
from fedray.worker import Range, initial_weights

PART = 1000
"""How many images one call evaluates; fixed, so that sums do not depend on the workers."""

LOST = 3
"""How often in a row a round may lose a node before the run is given up."""

MakeBackend = Callable[[Experiment, Federation], Backend]


@dataclass(frozen=True)
class Standing:
    """Where a run stands between two rounds."""

    state: ServerState
    kept: Mapping[int, Handle] = field(default_factory=dict)
    """Of each client that keeps something: what it begins its next round with."""


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
        self._standing = Standing(ServerState(0, self._first_weights))
        self._saved = 0
        self._described = False
        self.survived = 0
        """How many faults this driver has got over."""
        self._committing = threading.Lock()
        self._shared: tuple[int, Handle] = (-1, None)

    def run(self) -> Iterator[Event]:
        """Yield each round as soon as it is on disk, and before it what it waits for.

        Raises SpecError for a spec that cannot be run, RunError where clients or teachers fail. However it ends,
        the last finished round can be gone on from.
        """
        losses = rows.loss_columns(self._experiment.strategy)
        try:
            with self._folder.lock(self._patience):
                self._restore()
                self._describe()
                with self._folder.tables(losses, self._round) as tables:
                    try:
                        yield from self._run_rounds(tables)
                    finally:
                        with suppress(RunError, LostError):
                            self.stop()
        finally:
            self._backend.close()

    def stop(self) -> int:
        """Save the last finished round and return its number; no round is finished after this. For any thread."""
        if self._committing.acquire(timeout=60) and self._saved < self._round:
            self._save()
        return self._round

    @property
    def _round(self) -> int:
        return self._standing.state.round

    def _run_rounds(self, tables: Tables) -> Iterator[Event]:
        rounds, losses = self._experiment.training.rounds, 0
        if self._round < rounds:
            yield from map(Waiting, self._backend.ready())  # so that the first round's seconds are its own
        if 0 < self._round < rounds:
            self._report(tables, [Fault("interrupted", "run", platform.node(), f"went on from round {self._round}")])
        while self._round < rounds:
            try:
                result = yield from self._next_round(tables)
            except LostError as lost:
                losses += 1
                self._go_back(tables, lost, losses)
            else:
                losses = 0
                yield result
        costs.write(self._folder.path, self._experiment, self._data, self._asker.costs)
        checkpoint.save_weights(self._folder.model, self._standing.state.weights)

    def _next_round(self, tables: Tables) -> Generator[Wait, None, RoundResult]:
        start, before = time.perf_counter(), replace(self._asker.costs)
        cohort = self.sample(self._round + 1)
        taught = yield from self._lessons.of_round(self._round + 1, cohort)
        if not self._described:
            self._describe(self._lessons.accuracy())
        standing, report = self.run_round(self._standing, cohort, taught)
        report.round["seconds"] = round(time.perf_counter() - start, 3)
        report.round.update(self._taught(cohort, before, report))
        self._commit(tables, standing, report)
        return RoundResult(self._round, self._experiment.training.rounds, report.round)

    def _commit(self, tables: Tables, standing: Standing, report: rows.Report) -> None:
        """A round is finished once its rows are on disk."""
        faults, self._backend.faults = [*self._backend.faults, *report.faults], []
        report.round["retried"] = ", ".join(sorted(f.subject for f in faults if f.response == "made again"))
        with self._committing:
            tables.write(report)
            self._standing = standing
            self._report(tables, faults)
            if self._is_due(self._experiment.checkpoint.every, self._round):
                self._save()

    def _go_back(self, tables: Tables, lost: LostError, times: int) -> None:
        """To the last round that is whole: the one in memory, or on disk where clients keep something."""
        if times == LOST:
            raise RunError(f"round {self._round + 1} lost a node {LOST} times in a row, at last so: {lost}")
        number = self._round + 1
        if self._standing.kept:
            self._restore()
        tables.go_back(self._round)
        response = f"round {self._round + 1} run again" if self._round + 1 == number else f"back to round {self._round}"
        self._report(tables, [Fault("node lost", f"round {number}", "unknown", response, str(lost))])

    def _report(self, tables: Tables, faults: Sequence[Fault]) -> None:
        self.survived += len(faults)
        tables.report(self._round, faults)

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
        self, standing: Standing, cohort: Sequence[int], taught: Mapping[int, Handle]
    ) -> tuple[Standing, rows.Report]:
        """Train a cohort on what it is taught, average its proxies, evaluate the average."""
        mean, kept, outcomes = self._train(cohort, standing, taught)
        state = ServerState(standing.state.round + 1, mean.mean(like=standing.state.weights))
        due = self._is_due(self._experiment.evaluation.every, state.round)
        tally = self._evaluate(state) if due else None
        return Standing(state, kept), rows.report(state.round, outcomes, tally, self._data, nbytes(state.weights))

    def sample(self, number: int) -> list[int]:
        """The cohort of a round, drawn for (seed, round) among the clients that hold examples."""
        return draw_cohort(self._experiment, self._data.shards, number)

    def _train(
        self, cohort: Sequence[int], standing: Standing, taught: Mapping[int, Handle]
    ) -> tuple[ExactMean, Mapping[int, Handle], list[rows.Outcome]]:
        largest_first = sorted(cohort, key=lambda client: -len(self._data.shards[client]))
        tasks = [ClientTask(standing.state.round + 1, client) for client in largest_first]
        weights, training = self._share(standing.state), self._experiment.training
        calls = [(task, weights, taught.get(task.client), standing.kept.get(task.client)) for task in tasks]
        total, kept, outcomes = self._backend.total(), dict(standing.kept), list[rows.Outcome]()
        start = time.perf_counter()
        for answer in self._backend.map("train", calls, training.deadline if training.late == "drop" else None):
            outcomes.append(_outcome(tasks[answer.call], answer))
            self._note_late(tasks[answer.call], time.perf_counter() - start)
            if isinstance(answer, Answer):
                total.add(answer, self._weight(answer.value))
                kept |= {answer.value.client: answer.kept} if self._experiment.strategy.keeps else {}
            self._tolerate(outcomes, len(cohort))
        return total.mean(), kept, sorted(outcomes, key=lambda outcome: outcome.client)

    def _note_late(self, task: ClientTask, seconds: float) -> None:
        training = self._experiment.training
        if training.late == "wait" and training.deadline is not None and seconds > training.deadline:
            after = f"after {seconds:.1f} s, the deadline was {training.deadline:g} s"
            self._backend.faults.append(Fault("client late", f"client {task.client}", "", "waited for", after))

    def _weight(self, update: ClientUpdate) -> int:
        return update.examples if self._experiment.strategy.weighting == "examples" else 1

    def _tolerate(self, outcomes: Sequence[rows.Outcome], cohort: int) -> None:
        """Raises RunError as soon as a round has more failures than the spec allows."""
        failures = [outcome for outcome in outcomes if isinstance(outcome, ClientFailure)]
        refused = [failure for failure in failures if not failure.late]
        training = self._experiment.training
        if refused and training.failures == "abort":
            raise RunError(f"{refused[0]}\n{refused[0].traceback}".rstrip())
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
        self._described = teacher_accuracy is not None or not self._lessons.quantities
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

    def _save(self) -> None:
        private = ((client, self._backend.fetch(handle)) for client, handle in self._standing.kept.items())
        checkpoint.save(self._folder.checkpoint, self._standing.state, private)
        self._saved = self._round

    def _restore(self) -> None:
        """Stand where the newest whole checkpoint stands, or at the beginning."""
        found = checkpoint.load(self._folder.checkpoint)
        state, private = found or (ServerState(0, self._first_weights), {})
        if problem := check_weights(state.weights, self._first_weights):
            raise SpecError(f"'{self._folder.checkpoint}' does not fit this spec: {problem}")
        kept = {client: self._backend.share(weights) for client, weights in private.items()}
        self._standing, self._saved = Standing(state, kept), state.round

    def _is_due(self, every: int, number: int) -> bool:
        return number % every == 0 or number == self._experiment.training.rounds


def _parts(count: int) -> list[Range]:
    return [(start, min(start + PART, count)) for start in range(0, count, PART)]


def _outcome(task: ClientTask, answer: Answer | Failure) -> rows.Outcome:
    """The client's update, or why there is none."""
    if isinstance(answer, Answer):
        update: ClientUpdate = answer.value
        return update
    error, late = answer.error, isinstance(answer.error, LateError)
    reason = str(error) if late or isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
    return ClientFailure(task.client, task.round, answer.node, reason, answer.traceback, late)


def _backend_of(experiment: Experiment) -> Any:
    if experiment.resources.backend == "serial":
        from fedray.backends.serial import SerialBackend

        return SerialBackend
    from fedray.backends.ray_actors import RayBackend

    return RayBackend
