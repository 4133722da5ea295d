"""What the driver wants to know of teachers: from the bank where it is there, else from the workers."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeAlias

import numpy as np
from filelock import Timeout

from fedray.backends.base import Backend, CallFailure
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.views import VIEWS
from fedray.errors import RunError, SpecError
from fedray.results.costs import TeacherCosts
from fedray.teachers.cache import CacheEntry, TeacherCache, Values
from fedray.teachers.cache_key import cache_content
from fedray.teachers.sections import members
from fedray.types import Indices, Progress, TeacherOutput, TeacherProgress, TeacherQuery, Waiting

QueryRows: TypeAlias = Mapping[TeacherQuery, Indices]
Asked: TypeAlias = Generator[Progress, None, dict[TeacherQuery, Values]]


class TeacherClient:
    """Answers of all teachers of one experiment, each computed once for whoever shares the bank."""

    def __init__(
        self, experiment: Experiment, federated: FederatedDataset, backend: Backend, teacher_cache: TeacherCache
    ) -> None:
        self._experiment = experiment
        self._federated = federated
        self._backend = backend
        self._teacher_cache = teacher_cache
        self._entries: dict[TeacherQuery, CacheEntry] = {}
        self.costs = TeacherCosts()

    def answers(self, wanted: QueryRows, features: Mapping[TeacherQuery, Values] | None = None) -> Asked:
        """Returns float32 [k, width] for each question's k rows.

        To fit a head, a worker is given the client's `features`. Raises RunError where a teacher fails.
        """
        start = time.perf_counter()
        entries = {question: self._entry(question) for question in wanted}
        missing = {entries[q].key: entries[q] for q, rows in wanted.items() if len(_unknown(entries[q], rows))}
        if missing:
            for text in self._backend.ready():  # nobody may wait for a lock whose holder waits for our workers
                yield Waiting(text)
            with ExitStack() as held:
                for key in sorted(missing):  # all in one order, so that no two wait for each other
                    yield from _acquire(missing[key], held)
                yield from self._compute(entries, wanted, features or {})
        found = {question: self._read(entries[question], rows) for question, rows in wanted.items()}
        self.costs.seconds += time.perf_counter() - start
        return found

    def _entry(self, question: TeacherQuery) -> CacheEntry:
        """Found once: to know a teacher by its content is to read its weights."""
        if question not in self._entries:
            self._entries[question] = self._find(question)
        return self._entries[question]

    def _find(self, question: TeacherQuery) -> CacheEntry:
        facts = cache_content(question, self._experiment, self._federated)
        data = self._federated.side(question.side)
        if question.output_kind == "head":
            return self._teacher_cache.entry(facts, len(data.classes))
        rows = len(data) * (VIEWS if question.augmented else 1)
        return self._teacher_cache.entry(facts, rows, "float16" if question.augmented else "float32")

    def _compute(
        self, entries: Mapping[TeacherQuery, CacheEntry], wanted: QueryRows, features: Mapping[TeacherQuery, Values]
    ) -> Iterator[TeacherProgress]:
        """Ask the workers what the bank still lacks, and store each answer as it comes."""
        unknown = {question: _unknown(entries[question], rows) for question, rows in wanted.items()}
        calls = [
            (question, rows, features.get(question)) for question in wanted for rows in self._parts(question, unknown)
        ]
        done, total = 0, sum(map(len, unknown.values()))
        for outcome in self._backend.map("teach", calls):
            if isinstance(outcome, CallFailure):
                raise _reported(outcome)
            question, rows, _ = calls[outcome.call]
            self._store(entries[question], rows, outcome.value)
            done += len(rows)
            yield TeacherProgress(done, total, "heads" if question.output_kind == "head" else "answers")

    def _parts(self, question: TeacherQuery, unknown: QueryRows) -> Sequence[Indices]:
        """A call for each batch; but a client's own teacher, which is fitted first, answers all in one."""
        rows = unknown[question]
        member = members(self._experiment.teacher)[question.member]
        if question.client is not None or not len(rows):
            return [rows] if len(rows) else []
        size = getattr(member, "backbone", member).batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _store(self, entry: CacheEntry, rows: Indices, lesson: TeacherOutput) -> None:
        with np.errstate(over="ignore"):
            stored = lesson.values.astype(entry.facts["dtype"])
        if not np.isfinite(stored).all():
            raise SpecError(
                "teacher: it gives answers beyond the range of fp16, which views are stored in; use mode: online."
            )
        error = float(np.abs(lesson.values - stored).max(initial=0.0))
        self.costs.storage_error = max(self.costs.storage_error, error)
        self.costs.forward_passes += lesson.passes
        self.costs.flops += lesson.flops
        self.costs.peak_bytes = max(self.costs.peak_bytes, lesson.peak_bytes)
        entry.write(rows, stored, lesson.made_by)

    def _read(self, entry: CacheEntry, rows: Indices) -> Values:
        values, known = entry.read(rows)
        if values is None or not known.all():
            raise RunError(f"the teacher bank does not give back what was written to it: {entry.folder}.")
        if entry.facts["content"]["output_kind"] != "head":
            self.costs.made_by[entry.key] = entry.made_by
        return values.astype(np.float32)


def _unknown(entry: CacheEntry, rows: Indices) -> Indices:
    rows = np.unique(rows)
    return rows[~entry.read(rows)[1]]


def _acquire(entry: CacheEntry, held: ExitStack) -> Iterator[TeacherProgress]:
    """Wait until nobody else computes the entry."""
    while True:
        try:
            held.enter_context(entry.lock.acquire(timeout=0.5))
            return
        except Timeout:
            yield TeacherProgress(0, 0, waiting=True)


def _reported(failure: CallFailure) -> Exception:
    if isinstance(failure.error, SpecError):
        return failure.error
    return RunError(
        f"a teacher failed on node {failure.node}: {type(failure.error).__name__}: {failure.error}\n{failure.traceback}"
    )
