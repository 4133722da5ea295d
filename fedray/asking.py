"""What the driver wants to know of teachers: from the bank where it is there, else from the workers."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from filelock import Timeout

from fedray.backends.base import Backend, Failure
from fedray.config import Experiment
from fedray.data.federation import Federation
from fedray.data.views import VIEWS
from fedray.errors import RunError, SpecError
from fedray.teachers.bank import Bank, Entry, Values
from fedray.teachers.content import content
from fedray.teachers.sections import members
from fedray.types import Asking, Indices, Lesson, Question, Row, Wait, Waiting

Wanted: TypeAlias = Mapping[Question, Indices]
Asked: TypeAlias = Generator[Wait, None, dict[Question, Values]]


@dataclass
class Costs:
    """What teachers have cost since the driver began."""

    passes: int = 0  # forward passes of one image
    flops: int = 0  # floating-point operations of them all
    seconds: float = 0.0  # that the driver waited for answers
    peak_bytes: int = 0  # of the process that used most
    storage_error: float = 0.0  # the largest difference that storing in fp16 made
    made_by: dict[str, Row] = field(default_factory=dict)  # what computed the entries that were read


class Asker:
    """Answers of all teachers of one experiment, each computed once for whoever shares the bank."""

    def __init__(self, experiment: Experiment, federation: Federation, backend: Backend, bank: Bank) -> None:
        self._experiment = experiment
        self._federation = federation
        self._backend = backend
        self._bank = bank
        self._entries: dict[Question, Entry] = {}
        self.costs = Costs()

    def answers(self, wanted: Wanted, features: Mapping[Question, Values] | None = None) -> Asked:
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

    def _entry(self, question: Question) -> Entry:
        """Found once: to know a teacher by its content is to read its weights."""
        if question not in self._entries:
            self._entries[question] = self._find(question)
        return self._entries[question]

    def _find(self, question: Question) -> Entry:
        facts = content(question, self._experiment, self._federation)
        data = self._federation.side(question.side)
        if question.quantity == "head":
            return self._bank.entry(facts, len(data.classes))
        rows = len(data) * (VIEWS if question.viewed else 1)
        return self._bank.entry(facts, rows, "float16" if question.viewed else "float32")

    def _compute(
        self, entries: Mapping[Question, Entry], wanted: Wanted, features: Mapping[Question, Values]
    ) -> Iterator[Asking]:
        """Ask the workers what the bank still lacks, and store each answer as it comes."""
        unknown = {question: _unknown(entries[question], rows) for question, rows in wanted.items()}
        calls = [
            (question, rows, features.get(question)) for question in wanted for rows in self._parts(question, unknown)
        ]
        done, total = 0, sum(map(len, unknown.values()))
        for outcome in self._backend.map("teach", calls):
            if isinstance(outcome, Failure):
                raise _reported(outcome)
            question, rows, _ = calls[outcome.call]
            self._store(entries[question], rows, outcome.value)
            done += len(rows)
            yield Asking(done, total, "heads" if question.quantity == "head" else "answers")

    def _parts(self, question: Question, unknown: Wanted) -> Sequence[Indices]:
        """A call for each batch; but a client's own teacher, which is fitted first, answers all in one."""
        rows = unknown[question]
        member = members(self._experiment.teacher)[question.member]
        if question.client is not None or not len(rows):
            return [rows] if len(rows) else []
        size = getattr(member, "backbone", member).batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _store(self, entry: Entry, rows: Indices, lesson: Lesson) -> None:
        with np.errstate(over="ignore"):
            stored = lesson.values.astype(entry.facts["dtype"])
        if not np.isfinite(stored).all():
            raise SpecError(
                "teacher: it gives answers beyond the range of fp16, which views are stored in; use mode: online."
            )
        error = float(np.abs(lesson.values - stored).max(initial=0.0))
        self.costs.storage_error = max(self.costs.storage_error, error)
        self.costs.passes += lesson.passes
        self.costs.flops += lesson.flops
        self.costs.peak_bytes = max(self.costs.peak_bytes, lesson.peak_bytes)
        entry.write(rows, stored, lesson.made_by)

    def _read(self, entry: Entry, rows: Indices) -> Values:
        values, known = entry.read(rows)
        if values is None or not known.all():
            raise RunError(f"the teacher bank does not give back what was written to it: {entry.folder}.")
        if entry.facts["content"]["quantity"] != "head":
            self.costs.made_by[entry.key] = entry.made_by
        return values.astype(np.float32)


def _unknown(entry: Entry, rows: Indices) -> Indices:
    rows = np.unique(rows)
    return rows[~entry.read(rows)[1]]


def _acquire(entry: Entry, held: ExitStack) -> Iterator[Asking]:
    """Wait until nobody else computes the entry."""
    while True:
        try:
            held.enter_context(entry.lock.acquire(timeout=0.5))
            return
        except Timeout:
            yield Asking(0, 0, waiting=True)


def _reported(failure: Failure) -> Exception:
    if isinstance(failure.error, SpecError):
        return failure.error
    return RunError(
        f"a teacher failed on node {failure.node}: {type(failure.error).__name__}: {failure.error}\n{failure.traceback}"
    )
