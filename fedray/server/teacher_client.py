"""Gets teacher outputs for the driver: from the teacher cache, or else computed by the workers and stored."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import numpy as np
from filelock import Timeout

from fedray.backends.base import Backend, CallFailure
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.views import VIEWS
from fedray.errors import RunError, SpecError
from fedray.results.costs import TeacherCosts
from fedray.teachers.cache import CacheEntry, OutputArray, TeacherCache
from fedray.teachers.cache_key import cache_content
from fedray.teachers.precomputed import PrecomputedTeacher
from fedray.teachers.sections import Precomputed, members, network_of
from fedray.types import Indices, OnProgress, TeacherOutput, TeacherProgress, TeacherQuery, Waiting
from fedray.workers.requests import QueryTeacher

QueryRows: TypeAlias = Mapping[TeacherQuery, Indices]

LOCK_POLL_S = 0.5
"""Seconds between two attempts to lock an entry that another process computes."""


class TeacherClient:
    """Outputs of all teachers of one experiment. Runs that share the cache compute each of them once."""

    def __init__(
        self, experiment: Experiment, federated: FederatedDataset, backend: Backend, teacher_cache: TeacherCache
    ) -> None:
        self._experiment = experiment
        self._federated = federated
        self._backend = backend
        self._teacher_cache = teacher_cache
        self._members = members(experiment.teacher)
        self._entries: dict[TeacherQuery, CacheEntry] = {}
        self.costs = TeacherCosts()

    def outputs(
        self,
        queries: QueryRows,
        on_progress: OnProgress,
        features: Mapping[TeacherQuery, OutputArray] | None = None,
    ) -> dict[TeacherQuery, OutputArray]:
        """Return float32 [k, width] for each query's k rows.

        A query of a head needs the client's `features` to fit it to. Raises RunError where a teacher fails.
        """
        tables = {query: rows for query, rows in queries.items() if self._is_precomputed(query)}
        outputs = {query: self._read_table(query, rows) for query, rows in tables.items()}
        start = time.perf_counter()
        entries = {query: self._entry(query) for query in queries if query not in tables}
        missing = {entry.key: entry for query, entry in entries.items() if len(entry.missing(queries[query]))}
        if missing:
            for text in self._backend.ready():  # before locking: a run without workers must not hold a lock
                on_progress(Waiting(text))
            with ExitStack() as locks:
                for key in sorted(missing):  # every run locks in this order, so that no two wait for each other
                    locks.enter_context(_locked(missing[key], on_progress))
                self._compute_missing(entries, queries, features or {}, on_progress)
        for query, entry in entries.items():
            stored, is_valid = entry.read(queries[query])
            if stored is None or not is_valid.all():
                raise RunError(f"the teacher cache does not return the rows that were written to it: {entry.folder}.")
            outputs[query] = stored.astype(np.float32)
            if query.output_kind != "head":
                self.costs.produced_by[entry.key] = entry.produced_by
        self.costs.seconds += time.perf_counter() - start
        return outputs

    def _entry(self, query: TeacherQuery) -> CacheEntry:
        """The entry of a query, looked up once: its key hashes the teacher's weights."""
        if query not in self._entries:
            self._entries[query] = cache_entry(query, self._experiment, self._federated, self._teacher_cache)
        return self._entries[query]

    def _is_precomputed(self, query: TeacherQuery) -> bool:
        return isinstance(self._members[query.member], Precomputed)

    def _read_table(self, query: TeacherQuery, rows: Indices) -> OutputArray:
        spec = self._members[query.member]
        assert isinstance(spec, Precomputed)
        return PrecomputedTeacher(spec).outputs(query.output_kind, self._federated.side(query.side).take(rows))

    def _compute_missing(
        self,
        entries: Mapping[TeacherQuery, CacheEntry],
        queries: QueryRows,
        features: Mapping[TeacherQuery, OutputArray],
        on_progress: OnProgress,
    ) -> None:
        """Let the workers compute all missing rows, and store each batch of outputs as it arrives."""
        missing = {query: entry.missing(queries[query]) for query, entry in entries.items()}
        requests = [
            QueryTeacher(query, batch, features.get(query))
            for query, rows in missing.items()
            for batch in self._batches(query, rows)
        ]
        done, total = 0, sum(map(len, missing.values()))
        for result in self._backend.run(requests):
            if isinstance(result, CallFailure):
                raise _error_of(result)
            query, rows = requests[result.index].query, requests[result.index].rows
            self._store(entries[query], rows, result.value)
            done += len(rows)
            on_progress(TeacherProgress(done, total, "heads" if query.output_kind == "head" else "outputs"))

    def _batches(self, query: TeacherQuery, rows: Indices) -> Sequence[Indices]:
        """One call per batch, but a single call for a client's own teacher, which is fitted first."""
        if query.client is not None or not len(rows):
            return [rows] if len(rows) else []
        network = network_of(self._members[query.member])
        assert not isinstance(network, Precomputed)
        return [rows[start : start + network.batch_size] for start in range(0, len(rows), network.batch_size)]

    def _store(self, entry: CacheEntry, rows: Indices, computed: TeacherOutput) -> None:
        with np.errstate(over="ignore"):
            stored = computed.outputs.astype(entry.metadata["dtype"])
        if not np.isfinite(stored).all():
            raise SpecError(
                "teacher: its outputs overflow fp16, in which outputs of views are stored; use mode: online."
            )
        error = float(np.abs(computed.outputs - stored).max(initial=0.0))
        self.costs.storage_error = max(self.costs.storage_error, error)
        self.costs.forward_passes += computed.forward_passes
        self.costs.flops += computed.flops
        self.costs.peak_bytes = max(self.costs.peak_bytes, computed.peak_bytes)
        entry.write(rows, stored, computed.produced_by)


def cache_entry(
    query: TeacherQuery, experiment: Experiment, federated: FederatedDataset, teacher_cache: TeacherCache
) -> CacheEntry:
    """Return the cache entry that holds a query's outputs: a row per class for a head, else per image or view.

    Outputs of views are stored as float16, all others as float32.
    """
    content = cache_content(
        query, experiment.teacher, federated, seed=experiment.seed, threads=experiment.resources.threads
    )
    data = federated.side(query.side)
    if query.output_kind == "head":
        return teacher_cache.entry(content, len(data.classes))
    if query.augmented:
        return teacher_cache.entry(content, len(data) * VIEWS, "float16")
    return teacher_cache.entry(content, len(data))


@contextmanager
def _locked(entry: CacheEntry, on_progress: OnProgress) -> Iterator[None]:
    """Hold the entry's lock, once no other process computes its rows."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(entry.lock(LOCK_POLL_S))
                break
            except Timeout:
                on_progress(TeacherProgress(0, 0, waiting=True))
        yield


def _error_of(failure: CallFailure) -> Exception:
    if isinstance(failure.error, SpecError):
        return failure.error
    return RunError(
        f"a teacher failed on node {failure.node}: {type(failure.error).__name__}: {failure.error}\n{failure.traceback}"
    )
