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

from fedray.backends.base import Backend, CallFailure, CallResult, Handle, values_in_order
from fedray.backends.ray.placement import draw_cohort
from fedray.config.experiment import Experiment
from fedray.data import federated
from fedray.data.federated import FederatedDataset, ReadDatasets, read_datasets
from fedray.errors import LostError, RunError, SpecError
from fedray.models.weights import check_weights, distance, nbytes
from fedray.results import checkpoint, costs, rows
from fedray.results.costs import TeacherCosts
from fedray.results.environment import environment
from fedray.results.run_folder import RunFolder
from fedray.results.writer import RunTables, write_confusion
from fedray.server import teacher_targets
from fedray.server.cohort import Cohort
from fedray.server.teacher_client import TeacherClient
from fedray.teachers.cache import TeacherCache
from fedray.training import malloc
from fedray.training.evaluation import EvalCounts
from fedray.types import Event, Fault, InitialState, Progress, Range, RoundResult, Row, ServerState, Waiting

EVAL_CHUNK_IMAGES = 1000
"""How many images one call evaluates; fixed, so that sums do not depend on the workers."""

MAX_NODE_LOSSES = 3
"""How often in a row a round may lose a node before the run is given up."""

MakeBackend = Callable[[Experiment, FederatedDataset], Backend]


@dataclass(frozen=True)
class RunState:
    """Where a run stands between two rounds."""

    state: ServerState
    state_rounds: dict[int, int] = field(default_factory=dict)
    """Of each client that keeps something: the round it last did."""


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
        read: ReadDatasets = read_datasets,
        lock_timeout: float = 0,
    ) -> None:
        """`lock_timeout`: seconds to wait for another run to leave the folder."""
        self._experiment = experiment
        self._command = command or sys.argv
        self._folder = RunFolder(folder)
        self._folder.path.mkdir(parents=True, exist_ok=True)
        self._lock_timeout = lock_timeout
        data = federated.load(experiment.data, experiment.partition, experiment.seed, read)
        teacher_targets.check_assignment(experiment, data)
        self._backend = (make_backend or _backend_of(experiment))(experiment, data)
        self._data = self._backend.federated
        del data  # what the images were read from and into, before they were put where workers read them
        malloc.trim()
        self._cohort = Cohort(experiment, self._data, self._backend, self._folder.checkpoint)
        self._teacher_client = TeacherClient(experiment, self._data, self._backend, TeacherCache(cache))
        self._teacher_targets = teacher_targets.TeacherTargets(
            experiment, self._data, self._backend, self._teacher_client
        )
        self._beginning: InitialState
        self._written: Path
        self._standing = RunState(ServerState(0, {}))  # until the workers are there
        self._saved = 0
        self._stopped = self._described = False
        self._committing = threading.Lock()
        self._shared: tuple[int, Handle] = (-1, None)

    def run(self) -> Iterator[Event]:
        """Yield each round as soon as it is on disk, and before it what it waits for.

        Raises SpecError for a spec that cannot be run, RunError where clients or teachers fail. However it ends,
        the last finished round can be gone on from.
        """
        losses = rows.loss_columns(self._experiment.strategy)
        try:
            with self._folder.lock(self._lock_timeout):
                for text in self._backend.ready():  # so that the first round's seconds are its own
                    yield Waiting(text)
                (self._beginning,) = self._backend.collect("begin", [("proxy",)])
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
        with self._committing:
            self._stopped = True
            if self._saved < self._round:
                self._save()
        return self._round

    @property
    def _round(self) -> int:
        return self._standing.state.round

    def _run_rounds(self, tables: RunTables) -> Iterator[Event]:
        rounds, losses = self._experiment.training.rounds, 0
        if 0 < self._round < rounds:
            tables.report(
                self._round, [Fault("interrupted", "run", platform.node(), f"went on from round {self._round}")]
            )
        while self._round < rounds:
            try:
                result = yield from self._next_round(tables)
            except LostError as lost:
                losses += 1
                self._rollback(tables, lost, losses)
            else:
                losses = 0
                yield result
        models = ["proxy", "private"] if self._experiment.strategy.client_model == "private" else ["proxy"]
        flops = self._backend.collect("flops", [(model,) for model in models])
        costs.write(
            self._folder.path, self._experiment, self._teacher_client.costs, dict(zip(models, flops, strict=True))
        )
        checkpoint.save_weights(self._folder.model, self._standing.state.weights)

    def _next_round(self, tables: RunTables) -> Generator[Progress, None, RoundResult]:
        start, before = time.perf_counter(), replace(self._teacher_client.costs)
        cohort = self.sample(self._round + 1)
        progress: list[Progress] = []
        targets = self._teacher_targets.of_round(self._round + 1, cohort, progress.append)
        yield from progress
        if not self._described:
            self._describe(self._teacher_targets.predictions())
        standing, report = self.run_round(self._standing, cohort, targets)
        report.round["seconds"] = round(time.perf_counter() - start, 3)
        report.round.update(self._targets(cohort, before, report))
        self._commit(tables, standing, report)
        return RoundResult(self._round, self._experiment.training.rounds, report.round)

    def _commit(self, tables: RunTables, standing: RunState, report: rows.RoundRecord) -> None:
        """A round is finished once its rows are on disk."""
        faults, self._backend.faults = [*self._backend.faults, *report.faults], []
        report.round["retried"] = ", ".join(sorted(f.subject for f in faults if f.response == "made again"))
        with self._committing:
            if self._stopped:
                raise RunError("stopped")
            tables.write(report)
            self._standing = standing
            tables.report(self._round, faults)
            if self._is_due(self._experiment.checkpoint.every, self._round):
                checkpoint.keep(self._written)
                self._saved = self._round
            if standing.state_rounds:
                checkpoint.sweep(self._folder.checkpoint, standing.state_rounds)

    def _rollback(self, tables: RunTables, lost: LostError, times: int) -> None:
        """To the last round that is whole."""
        if times == MAX_NODE_LOSSES:
            raise RunError(f"round {self._round + 1} lost a node {MAX_NODE_LOSSES} times in a row, at last so: {lost}")
        tables.rollback(self._round)
        lost_round = f"round {self._round + 1}"
        tables.report(self._round, [Fault("node lost", lost_round, "unknown", f"{lost_round} run again", str(lost))])

    def _targets(self, cohort: Sequence[int], before: TeacherCosts, report: rows.RoundRecord) -> Row:
        """What the teachers did for a round, in the bank's name or beside the clients."""

        def spent(what: str) -> Any:
            beside = sum(row[f"teacher_{what}"] for row in report.clients)
            return getattr(self._teacher_client.costs, what) - getattr(before, what) + beside

        return {
            "teacher_outputs_used": self._teacher_targets.queries.outputs_used(cohort),
            "teacher_forward_passes": spent("forward_passes"),
            "teacher_flops": spent("flops"),
            "teacher_seconds": round(spent("seconds"), 3),
        }

    def run_round(
        self, standing: RunState, cohort: Sequence[int], targets: Mapping[int, Handle]
    ) -> tuple[RunState, rows.RoundRecord]:
        """Train a cohort on what it is taught, average its proxies, evaluate the average."""
        number, weights = standing.state.round + 1, self._share(standing.state)
        trained = self._cohort.train(number, cohort, weights, targets, standing.state_rounds)
        state = ServerState(number, trained.mean.mean(like=standing.state.weights))
        after = RunState(state, standing.state_rounds | trained.kept)
        evaluated = self._evaluate(state) if self._is_due(self._experiment.evaluation.every, number) else ()
        moved = distance(state.weights, standing.state.weights, self._beginning.parameters)  # while they evaluate
        if self._is_due(self._experiment.checkpoint.every, number):
            self._written = self._write(after)
        tallies: list[EvalCounts] = values_in_order(evaluated)
        tally = sum(tallies[1:], start=tallies[0]) if tallies else None
        report = rows.round_record(number, trained.outcomes, tally, self._data, nbytes(state.weights))
        report.round.update(rows.update_statistics(self._experiment.strategy, trained.outcomes, moved))
        return after, report

    def sample(self, number: int) -> list[int]:
        """The cohort of a round, drawn for (seed, round) among the clients that hold examples."""
        return draw_cohort(self._experiment, self._data.shards, number)

    def _evaluate(self, state: ServerState) -> Iterator[CallResult | CallFailure]:
        weights = self._share(state)
        return self._backend.map("evaluate", [(part, weights) for part in _test_ranges(len(self._data.test))])

    def _describe(self, targets: EvalCounts | None = None) -> None:
        """Write what this run is: its spec, its environment, its partition; once it is known, what it is taught."""
        self._described = targets is not None or not self._teacher_targets.queries.output_kinds
        facts = environment(self._experiment, self._command, self._beginning.gpu)
        if targets is not None:
            facts["teacher_accuracy"] = targets.accuracy
            write_confusion(self._folder.path, "teacher", targets.confusion())
        self._folder.describe(self._experiment, facts)
        self._folder.write_partition(self._data)

    def _share(self, state: ServerState) -> Handle:
        """The weights go out once, and serve the evaluation and the next round's clients."""
        if self._shared[0] != state.round:
            self._shared = (state.round, self._backend.share(state.weights))
        return self._shared[1]

    def _save(self) -> None:
        checkpoint.keep(self._write(self._standing))
        self._saved = self._round

    def _write(self, standing: RunState) -> Path:
        """A checkpoint, before it counts as one."""
        return checkpoint.write(self._folder.checkpoint, standing.state, standing.state_rounds)

    def _restore(self) -> None:
        """Stand where the newest whole checkpoint stands, or at the beginning."""
        found = checkpoint.load(self._folder.checkpoint)
        state, state_rounds = found or (ServerState(0, self._beginning.weights), {})
        if problem := check_weights(state.weights, self._beginning.weights):
            raise SpecError(f"'{self._folder.checkpoint}' does not fit this spec: {problem}")
        self._standing, self._saved = RunState(state, state_rounds), state.round

    def _is_due(self, every: int, number: int) -> bool:
        return number % every == 0 or number == self._experiment.training.rounds


def _test_ranges(count: int) -> list[Range]:
    return [(start, min(start + EVAL_CHUNK_IMAGES, count)) for start in range(0, count, EVAL_CHUNK_IMAGES)]


def _backend_of(experiment: Experiment) -> Any:
    if experiment.resources.backend == "serial":
        from fedray.backends.serial import SerialBackend

        return SerialBackend
    from fedray.backends.ray.actors import RayBackend

    return RayBackend
