"""The outer loop of a run: rounds of sampling, local training, aggregation and evaluation. Read this file first."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fedray.backends.base import MakeBackend
from fedray.backends.choice import backend_of
from fedray.config.experiment import Experiment
from fedray.data.federated import ReadDatasets, read_datasets
from fedray.errors import LostError, RunError, SpecError
from fedray.models.weights import WeightsFile, check_weights, distance
from fedray.results import checkpoint, costs, rows
from fedray.results.checksums import record_checksums
from fedray.results.contents import contents_of
from fedray.results.environment import circumstances
from fedray.results.loader import read_rows
from fedray.results.run_folder import RunFolder
from fedray.results.writer import RunTables, write_confusion
from fedray.server import teacher_targets
from fedray.server.cohort import CohortResult, CohortTrainer, draw_cohort
from fedray.server.evaluation import Evaluator
from fedray.server.loss_monitor import LossMonitor
from fedray.server.public_training import check_public_split
from fedray.server.smallest_batch import check_smallest_batch
from fedray.server.step import broadcast, broadcast_bytes, round_info, server_step
from fedray.server.teacher_client import TeacherClient
from fedray.teachers.cache import TeacherCache
from fedray.training import malloc
from fedray.training.evaluation import EvalCounts
from fedray.types import (
    ArrayGroups,
    Fault,
    ImageShape,
    InitialState,
    Notice,
    OnProgress,
    RoundResult,
    ServerState,
    TargetArrays,
    Waiting,
    ignore_progress,
)
from fedray.workers.requests import CountFlops, Initialize, Shared

MAX_NODE_LOSSES = 3
"""Number of consecutive node losses in one round after which the run ends."""


@dataclass(frozen=True)
class RunState:
    """The state of a run between two rounds."""

    server: ServerState
    state_rounds: Mapping[int, int] = field(default_factory=dict)
    """The last round of each client that has state, by client id."""


class Driver:
    """Runs one experiment and writes its results to one folder, from the start or from the last checkpoint."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        make_backend: MakeBackend | None = None,
        command: Sequence[str] = (),
        cache: Path | None = None,
        read: ReadDatasets = read_datasets,
        lock_timeout: float = 0,
        allow_code_change: bool = False,
    ) -> None:
        """Load the data and start the workers.

        `command` is recorded in the results. `cache` is the folder of teacher outputs. `lock_timeout` is in seconds:
        how long to wait for another run to release the folder. `allow_code_change`: continue with other code.
        """
        self._experiment = experiment
        self._command = command or sys.argv
        self._folder = RunFolder(folder)
        self._folder.path.mkdir(parents=True, exist_ok=True)
        self._lock_timeout = lock_timeout
        data = experiment.load_data(read)
        teacher_targets.check_teacher(experiment, data)
        check_public_split(experiment, data)
        contents = contents_of(experiment, data)
        self._identify = partial(self._folder.identify, experiment, contents, allow_code_change=allow_code_change)
        self._backend = (make_backend or backend_of(experiment))(experiment, data)
        self._data = self._backend.federated
        del data  # the workers' copy of the images is in shared memory
        malloc.trim()
        self._trainer = CohortTrainer(experiment, self._backend, self._folder.checkpoint)
        self._teachers = TeacherClient(experiment, self._data, self._backend, TeacherCache(cache))
        self._targets = teacher_targets.TeacherTargets(experiment, self._data, self._backend, self._teachers)
        self._initial: InitialState
        self._input_shape: ImageShape | None = None  # of features that the proxy reads; None if it reads images
        self._state = RunState(ServerState(0, {}))  # set by _restore
        self._shared: tuple[int, Shared[ArrayGroups]] | None = None  # (round, its broadcast)
        self._tables: RunTables  # set by _open
        self._written: Path  # a checkpoint that is not committed yet
        self._saved_round = 0
        self._node_losses = 0
        self._losses = LossMonitor(len(self._data.train.classes), read_rows(folder / "faults.csv"))
        self._warnings = list[str]()  # since the last round
        self._is_stopped = self._is_described = False
        self._committing = threading.Lock()

    def run(self, on_progress: OnProgress = ignore_progress) -> Iterator[RoundResult]:
        """Run the remaining rounds; yield each one as soon as it is on disk.

        `on_progress` is called while a round waits for workers or teacher outputs. Raises SpecError for a spec that
        cannot run, RunError where clients or teachers fail. The run can be resumed however it ends.
        """
        with self._open(on_progress) as tables:
            while (number := self._round + 1) <= self._experiment.training.rounds:
                start = time.perf_counter()
                try:
                    # 1. Draw the cohort, a pure function of (seed, round).
                    cohort = draw_cohort(self._experiment, self._data.shards, number)
                    # 2. Send the global model, and the strategy's own arrays, once per node.
                    arrays = self._share(self._state.server)
                    # 3. Build each client's targets from cached teacher outputs; missing outputs are computed first.
                    targets = self._build_targets(number, cohort, on_progress)
                    test_features = self._targets.of_test_set(on_progress)
                    # 4. Train the cohort; messages are checked, and summed on the nodes where they are.
                    old, names = self._state, self._initial.trained_names
                    trained = self._trainer.train(number, cohort, arrays, targets, old.state_rounds, names)
                    # 5. The strategy turns the aggregate into a target, and may train it on public data; the server
                    #    optimizer steps to it.
                    info = round_info(number, trained.updates, self._data, self._initial.parameters)
                    server, phase_s = server_step(self._experiment, self._backend, old.server, trained.aggregate, info)
                    state = RunState(server, {**old.state_rounds, **trained.state_rounds})
                    # 6. Evaluate on the workers; write the round's rows and, if it is due, a checkpoint.
                    record = self._evaluate(state, trained, test_features)
                except LostError as error:
                    self._rollback(tables, error)
                    continue
                seconds = {"seconds": time.perf_counter() - start, "server_seconds": phase_s}
                record.round.update({name: round(value, 3) for name, value in seconds.items()})
                record.round.update(self._targets.columns(number, cohort, record.clients))
                self._commit(tables, state, record)
                yield RoundResult(number, self._experiment.training.rounds, record.round, tuple(self._warnings))
                self._warnings.clear()
            self._finish()

    def stop(self) -> int:
        """Save the last finished round and return its number. No round finishes afterwards. Safe in any thread."""
        with self._committing:
            self._is_stopped = True
            if self._saved_round < self._round:
                checkpoint.commit(self._write_checkpoint(self._state), self._tables.prefixes)
                self._saved_round = self._round
        return self._round

    @property
    def _round(self) -> int:
        """The last finished round."""
        return self._state.server.round

    @contextmanager
    def _open(self, on_progress: OnProgress) -> Iterator[RunTables]:
        """Lock the folder, wait for the workers, restore the last checkpoint and open the tables."""
        try:
            with self._folder.lock(self._lock_timeout):
                for text in self._backend.ready():  # start-up is not counted in the first round's seconds
                    on_progress(Waiting(text))
                self._warn(self._data.left_out, on_progress)
                self._input_shape = self._targets.input_shape(on_progress)
                (self._initial,) = self._backend.collect([Initialize(self._input_shape)])
                changes = self._restore()
                self._warn([f"the run is continued with {change}." for change in changes], on_progress)
                arrays = self._share(self._state.server)
                check = check_smallest_batch(self._experiment, self._data, self._backend, arrays, self._input_shape)
                self._warn(check, on_progress)
                self._describe()
                with self._folder.tables(rows.loss_columns(self._experiment.strategy), self._round) as tables:
                    self._tables = tables
                    if self._folder.resumable_from and self._round < self._experiment.training.rounds:
                        tables.report(self._round, self._folder.interruptions(self._round, changes))
                    try:
                        yield tables
                    finally:
                        with suppress(RunError, LostError):
                            self.stop()
        finally:
            self._backend.close()

    def _restore(self) -> list[str]:
        """Restore the newest checkpoint with complete tables. Return clauses on what has changed since the start."""
        initial, weights = self._initial, self._initial.weights
        self._evaluator = Evaluator(self._experiment, self._backend, self._folder.checkpoint, initial.parameters)
        extra = self._experiment.strategy.server_init(weights, initial.parameters)
        state, state_rounds = self._folder.load_checkpoint() or (ServerState(0, weights, extra), {})
        if problem := check_weights(state.weights, weights):
            raise SpecError(f"the checkpoint in '{self._folder.checkpoint}' does not fit this spec: {problem}")
        self._state, self._saved_round = RunState(state, state_rounds), state.round
        self._identity, changes = self._identify(self._initial.gpu, last_round=state.round)
        return changes

    def _warn(self, sentences: Sequence[str], on_progress: OnProgress) -> None:
        self._warnings += sentences
        for sentence in sentences:
            on_progress(Notice(sentence))

    def _describe(self, predictions: EvalCounts | None = None) -> None:
        """Write the spec, environment and partition and, once known, facts on the teacher."""
        self._is_described = predictions is not None or not self._targets.queries.output_kinds
        facts = circumstances(self._command) | self._targets.facts
        if predictions is not None:
            facts["teacher_accuracy"] = predictions.accuracy
            write_confusion(self._folder.path, "teacher", predictions.confusion())
        self._folder.describe(self._experiment, self._identity, facts)
        self._folder.write_partition(self._data)

    def _share(self, state: ServerState) -> Shared[ArrayGroups]:
        """Share the broadcast of a round once, for its evaluation and for the next round's training."""
        if self._shared is None or self._shared[0] != state.round:
            self._shared = state.round, self._backend.share(broadcast(self._experiment, state))
        return self._shared[1]

    def _build_targets(
        self, number: int, cohort: Sequence[int], on_progress: OnProgress
    ) -> Mapping[int, Shared[TargetArrays]]:
        targets = self._targets.of_round(number, cohort, on_progress)
        if not self._is_described:
            self._describe(self._targets.predictions())
        return targets

    def _evaluate(
        self, state: RunState, trained: CohortResult, features: Shared[TargetArrays] | None
    ) -> rows.RoundRecord:
        """Return the rows of a round; write its checkpoint, if it is due, while the workers evaluate."""
        number = state.server.round
        evaluated = None
        if self._experiment.is_evaluated(number):
            evaluated = self._evaluator.start(number, self._share(state.server), state.state_rounds, features)
        sent = [name for name in self._initial.trained_names if name in trained.aggregate.weights]
        update_norm = distance(trained.aggregate.weights, self._state.server.weights, sent)
        if self._experiment.is_saved(number):
            self._written = self._write_checkpoint(state)
        size = broadcast_bytes(self._experiment, self._state.server, self._initial.parameters)
        metrics = evaluated() if evaluated else None
        record = rows.round_record(number, trained.outcomes, metrics, self._data.test.classes, size)
        record.round.update(rows.update_statistics(self._experiment.strategy, trained.outcomes, update_norm))
        return record

    def _commit(self, tables: RunTables, state: RunState, record: rows.RoundRecord) -> None:
        """Finish a round: write its rows and commit its checkpoint."""
        diverged = self._losses.check(record)
        self._warnings += [fault.reason for fault in diverged]
        faults, self._backend.faults = [*self._backend.faults, *record.faults, *diverged], []
        retried = sorted(fault.subject for fault in faults if fault.response == "retried")
        record.round["retried"] = ", ".join(retried)
        with self._committing:
            if self._is_stopped:
                raise RunError("the run was stopped")
            tables.write(record)
            self._state = state
            tables.report(self._round, faults)
            if self._experiment.is_saved(self._round):
                checkpoint.commit(self._written, tables.prefixes)
                self._saved_round = self._round
            if state.state_rounds:
                checkpoint.delete_unused(self._folder.checkpoint, state.state_rounds)
            self._node_losses = 0

    def _rollback(self, tables: RunTables, lost: LostError) -> None:
        """Roll the tables back to the last finished round. Raises RunError after MAX_NODE_LOSSES in a row."""
        number = self._round + 1
        self._node_losses += 1
        if self._node_losses == MAX_NODE_LOSSES:
            raise RunError(f"round {number} lost a node {MAX_NODE_LOSSES} times in a row; the last error was: {lost}")
        tables.rollback(self._round)
        tables.report(self._round, [Fault("node lost", f"round {number}", "unknown", "round retried", str(lost))])

    def _finish(self) -> None:
        """Write the costs of the run, checksums of its files and, last, its final weights."""
        strategy = self._experiment.strategy
        others = {"private": strategy.client_model == "private", "frozen": bool(strategy.frozen_models)}
        models = ["proxy", *(model for model, exists in others.items() if exists)]
        requests = [CountFlops(model, self._input_shape) for model in models]
        flops = dict(zip(models, self._backend.collect(requests), strict=True))
        costs.write(self._folder.path, self._experiment, self._teachers.costs, flops)
        record_checksums(self._folder.path)
        WeightsFile(self._folder.model).write(self._state.server.weights)

    def _write_checkpoint(self, state: RunState) -> Path:
        """Write a checkpoint without committing it, which `checkpoint.commit` does."""
        return checkpoint.write(self._folder.checkpoint, state.server, state.state_rounds)
