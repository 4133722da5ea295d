"""Answers are computed once for whoever shares the bank, and are the teacher's own."""

import multiprocessing
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from fedray.asking import Asker
from fedray.backends.base import Answer, Failure
from fedray.backends.serial import SerialBackend
from fedray.config import Experiment
from fedray.data import federation
from fedray.data.federation import Federation
from fedray.data.views import PLAIN, VIEWS, apply_views
from fedray.errors import RunError, SpecError
from fedray.teachers import loading
from fedray.teachers.bank import Bank
from fedray.teachers.network import Teacher
from fedray.types import Asking, Indices, Made, Question
from fedray.worker import Worker

Make = Callable[..., Experiment]
Returned = TypeVar("Returned")

PLAINLY, VIEWED = Question(0, "logits"), Question(0, "logits", viewed=True)
BATCH = 8


@pytest.fixture
def experiment(small: Make) -> Experiment:
    return small(data={"train_limit": 100}, teacher={"epochs": 1, "batch_size": BATCH})


@pytest.fixture
def data(experiment: Experiment) -> Federation:
    return federation.load(experiment)


class FailingWorker(Worker):
    """Cannot answer about the last rows."""

    def teach(self, question: Question, rows: Indices, *others: Any) -> Any:
        if 99 in rows:
            raise ZeroDivisionError("the teacher divided by nothing")
        return super().teach(question, rows, *others)


class LoudWorker(Worker):
    """Its teacher's logits are beyond fp16."""

    def teach(self, question: Question, rows: Indices, *others: Any) -> Any:
        lesson = super().teach(question, rows, *others).answer
        return Made(replace(lesson, values=lesson.values * np.float32(1e6)))


class ListeningBackend(SerialBackend):
    """Remembers which rows its worker was asked about."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[int] = []

    def map(self, method: str, calls: Any, seconds: float | None = None) -> Any:
        outcome: Answer | Failure
        for outcome in super().map(method, calls, seconds):
            self.asked += calls[outcome.call][1].tolist()
            yield outcome


def asker(experiment: Experiment, data: Federation, worker: type[Worker] = Worker) -> Asker:
    return Asker(experiment, data, SerialBackend(experiment, data, worker), Bank())


def teacher_of(experiment: Experiment, data: Federation) -> Teacher:
    return loading.load(experiment.teacher, data, experiment.seed, torch.device("cpu"))


def returned(asking: Generator[Asking, None, Returned]) -> tuple[Returned, list[Asking]]:
    """What a generator returns, and what it yields before."""
    events = []
    while True:
        try:
            events.append(next(asking))
        except StopIteration as stop:
            return stop.value, events


def ask(one: Asker, rows: Iterable[int], question: Question = PLAINLY) -> Any:
    return returned(one.answers({question: np.array(rows)}))[0][question]


def test_answers_are_the_teachers_own_bit_for_bit(experiment: Experiment, data: Federation) -> None:
    """Asked in parts of another size, in another order, some twice: kernels see each image alike."""
    teacher = teacher_of(experiment, data)
    direct = teacher.ask(data.train.images)
    rows = np.random.default_rng(0).integers(0, 100, 150)
    found = ask(asker(experiment, data), rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, direct["logits"][rows])
    features = Question(0, "features")
    np.testing.assert_array_equal(ask(asker(experiment, data), rows, features), direct["features"][rows])
    test = Question(0, "logits", side="test")
    np.testing.assert_array_equal(
        ask(asker(experiment, data), range(60), test), teacher.ask(data.test.images)["logits"]
    )


def test_only_what_the_bank_lacks_is_computed(experiment: Experiment, data: Federation) -> None:
    backend = ListeningBackend(experiment, data)
    one = Asker(experiment, data, backend, Bank())
    for rows, passes in ((range(10, 30), 20), (range(10, 30), 20), ([29, 30, 5, 5, 30], 22), (range(100), 100)):
        ask(one, rows)
        assert one.costs.passes == passes
    assert sorted(backend.asked) == list(range(100))
    another = asker(experiment, data)
    ask(another, range(100))
    assert another.costs.passes == 0
    assert another.costs.peak_bytes == 0


def test_a_damaged_row_is_computed_again(experiment: Experiment, data: Federation) -> None:
    first = ask(asker(experiment, data), range(100))
    (entry,) = Bank().entries()
    text = bytearray((entry.folder / "rows.bin").read_bytes())
    text[len(text) // 2] ^= 1
    (entry.folder / "rows.bin").write_bytes(text)
    again = asker(experiment, data)
    np.testing.assert_array_equal(ask(again, range(100)), first)
    assert again.costs.passes == 1


def test_it_tells_how_far_it_is(experiment: Experiment, data: Federation) -> None:
    """A call for each batch of eight, and nothing to tell where all is known."""
    one = asker(experiment, data)
    _, events = returned(one.answers({PLAINLY: np.arange(100)}))
    assert events == [Asking(done, 100) for done in (*range(8, 100, 8), 100)]
    assert returned(one.answers({PLAINLY: np.arange(100)}))[1] == []
    assert one.costs.seconds > 0


def test_several_questions_at_once(experiment: Experiment, data: Federation) -> None:
    questions = {PLAINLY: np.arange(20), Question(0, "features"): np.arange(10), VIEWED: np.arange(5)}
    one = asker(experiment, data)
    found, events = returned(one.answers(questions))
    assert [(found[q].shape[0], found[q].shape[1]) for q in questions] == [(20, 10), (10, 512), (5, 10)]
    assert one.costs.passes == events[-1].done == 35
    assert len(one.costs.made_by) == len(Bank().entries()) == 3


def test_views_are_stored_in_half_precision_and_the_error_is_told(experiment: Experiment, data: Federation) -> None:
    rows = np.random.default_rng(1).choice(100 * VIEWS, 60, replace=False)
    one = asker(experiment, data)
    found = ask(one, rows, VIEWED)
    views = apply_views(torch.from_numpy(data.train.images[rows // VIEWS]), torch.from_numpy(rows % VIEWS)).numpy()
    direct = teacher_of(experiment, data).ask(views)["logits"]
    np.testing.assert_array_equal(found, direct.astype(np.float16).astype(np.float32))
    error = np.abs(direct.astype(np.float64) - direct.astype(np.float16).astype(np.float64)).max()
    assert error > 0
    assert one.costs.storage_error == pytest.approx(error, rel=1e-6)
    plain = asker(experiment, data)
    ask(plain, range(100))
    assert plain.costs.storage_error == 0


def test_the_plain_view_is_the_plain_image(experiment: Experiment, data: Federation) -> None:
    plain = ask(asker(experiment, data), range(30))
    viewed = ask(asker(experiment, data), np.arange(30) * VIEWS + PLAIN, VIEWED)
    np.testing.assert_array_equal(viewed, plain.astype(np.float16).astype(np.float32))


def test_answers_beyond_half_precision_are_refused(experiment: Experiment, data: Federation) -> None:
    with pytest.raises(SpecError, match=r"beyond the range of fp16, .* use mode: online"):
        ask(asker(experiment, data, LoudWorker), range(8), VIEWED)
    assert np.isfinite(ask(asker(experiment, data, LoudWorker), range(8))).all()


def test_a_teacher_that_fails_leaves_what_was_computed(experiment: Experiment, data: Federation) -> None:
    one = asker(experiment, data, FailingWorker)
    with pytest.raises(
        RunError, match=r"^a teacher failed on node .*: ZeroDivisionError: the teacher divided"
    ) as error:
        ask(one, range(100))
    assert "test_asking.py" in str(error.value)
    assert one.costs.passes == 96
    (entry,) = Bank().entries()
    assert entry.known() == 96
    again = asker(experiment, data)
    np.testing.assert_array_equal(ask(again, range(100)), teacher_of(experiment, data).ask(data.train.images)["logits"])
    assert again.costs.passes == 4


def test_stopped_in_the_middle_it_lets_others_in(experiment: Experiment, data: Federation) -> None:
    asking = asker(experiment, data).answers({PLAINLY: np.arange(100)})
    assert next(asking) == Asking(8, 100)
    asking.close()
    one = asker(experiment, data)
    _, events = returned(one.answers({PLAINLY: np.arange(100)}))
    assert not any(event.waiting for event in events)
    assert one.costs.passes == 92


def test_what_another_computes_is_waited_for(experiment: Experiment, data: Federation) -> None:
    first = asker(experiment, data).answers({PLAINLY: np.arange(100)})
    next(first)
    second = asker(experiment, data)
    asking = second.answers({PLAINLY: np.arange(100)})
    assert next(asking) == Asking(0, 0, waiting=True)
    returned(first)
    found, _ = returned(asking)
    assert second.costs.passes == 0
    np.testing.assert_array_equal(found[PLAINLY], ask(asker(experiment, data), range(100)))


def test_a_bank_that_cannot_be_written_is_a_spec_error(
    experiment: Experiment, data: Federation, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    one = Asker(experiment, data, SerialBackend(experiment, data), Bank(tmp_path / "file"))
    with pytest.raises(SpecError, match="set FEDRAY_CACHE to a folder that can"):
        ask(one, range(100))


def _ask_in_a_process(experiment: Experiment, begin: Any, said: Any) -> None:
    torch.set_num_threads(1)
    one = asker(experiment, federation.load(experiment))
    begin.wait(120)
    said.put((ask(one, range(99, 19, -1)), one.costs.passes))


def test_processes_that_ask_at_once_compute_each_row_once(experiment: Experiment, data: Federation) -> None:
    spawn = multiprocessing.get_context("spawn")
    begin, said = spawn.Barrier(2), spawn.Queue()
    other = spawn.Process(target=_ask_in_a_process, args=(experiment, begin, said))
    other.start()
    one = asker(experiment, data)
    begin.wait(120)
    mine = ask(one, range(80))
    its, passes = said.get(timeout=120)
    other.join(60)
    assert other.exitcode == 0
    assert one.costs.passes + passes == 100
    direct = teacher_of(experiment, data).ask(data.train.images)["logits"]
    np.testing.assert_array_equal(mine, direct[:80])
    np.testing.assert_array_equal(its, direct[:19:-1])
