"""Answers are computed once for whoever shares the bank, and are the teacher's own."""

import multiprocessing
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from helpers import federated

from fedray.backends.base import CallFailure, CallResult
from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.views import PLAIN, VIEWS, apply_views
from fedray.errors import RunError, SpecError
from fedray.server.teacher_queries import TeacherClient
from fedray.teachers import loading
from fedray.teachers.cache import TeacherCache
from fedray.teachers.teacher import Teacher
from fedray.types import Indices, TeacherProgress, TeacherQuery, WorkerResult
from fedray.workers.worker import Worker

Make = Callable[..., Experiment]
Returned = TypeVar("Returned")

PLAINLY, VIEWED = TeacherQuery(0, "logits"), TeacherQuery(0, "logits", augmented=True)
BATCH = 8


@pytest.fixture
def experiment(small: Make) -> Experiment:
    return small(data={"train_limit": 100}, teacher={"epochs": 1, "batch_size": BATCH})


@pytest.fixture
def data(experiment: Experiment) -> FederatedDataset:
    return federated.load(experiment)


class FailingWorker(Worker):
    """Cannot answer about the last rows."""

    def teach(self, question: TeacherQuery, rows: Indices, *others: Any) -> Any:
        if 99 in rows:
            raise ZeroDivisionError("the teacher divided by nothing")
        return super().teach(question, rows, *others)


class LoudWorker(Worker):
    """Its teacher's logits are beyond fp16."""

    def teach(self, question: TeacherQuery, rows: Indices, *others: Any) -> Any:
        lesson = super().teach(question, rows, *others).answer
        return WorkerResult(replace(lesson, values=lesson.values * np.float32(1e6)))


class ListeningBackend(SerialBackend):
    """Remembers which rows its worker was asked about."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[int] = []

    def map(self, method: str, calls: Any, seconds: float | None = None) -> Any:
        outcome: CallResult | CallFailure
        for outcome in super().map(method, calls, seconds):
            self.asked += calls[outcome.call][1].tolist()
            yield outcome


def teacher_client(experiment: Experiment, data: FederatedDataset, worker: type[Worker] = Worker) -> TeacherClient:
    return TeacherClient(experiment, data, SerialBackend(experiment, data, worker), TeacherCache())


def teacher_of(experiment: Experiment, data: FederatedDataset) -> Teacher:
    return loading.load(experiment.teacher, data, experiment.seed, torch.device("cpu"))


def returned(asking: Generator[TeacherProgress, None, Returned]) -> tuple[Returned, list[TeacherProgress]]:
    """What a generator returns, and what it yields before."""
    events = []
    while True:
        try:
            events.append(next(asking))
        except StopIteration as stop:
            return stop.value, events


def ask(one: TeacherClient, rows: Iterable[int], question: TeacherQuery = PLAINLY) -> Any:
    return returned(one.answers({question: np.array(rows)}))[0][question]


def test_answers_are_the_teachers_own_bit_for_bit(experiment: Experiment, data: FederatedDataset) -> None:
    """Asked in parts of another size, in another order, some twice: kernels see each image alike."""
    teacher = teacher_of(experiment, data)
    direct = teacher.ask(data.train.images)
    rows = np.random.default_rng(0).integers(0, 100, 150)
    found = ask(teacher_client(experiment, data), rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, direct["logits"][rows])
    features = TeacherQuery(0, "features")
    np.testing.assert_array_equal(ask(teacher_client(experiment, data), rows, features), direct["features"][rows])
    test = TeacherQuery(0, "logits", side="test")
    np.testing.assert_array_equal(
        ask(teacher_client(experiment, data), range(60), test), teacher.ask(data.test.images)["logits"]
    )


def test_only_what_the_bank_lacks_is_computed(experiment: Experiment, data: FederatedDataset) -> None:
    backend = ListeningBackend(experiment, data)
    one = TeacherClient(experiment, data, backend, TeacherCache())
    for rows, passes in ((range(10, 30), 20), (range(10, 30), 20), ([29, 30, 5, 5, 30], 22), (range(100), 100)):
        ask(one, rows)
        assert one.costs.forward_passes == passes
    assert sorted(backend.asked) == list(range(100))
    another = teacher_client(experiment, data)
    ask(another, range(100))
    assert another.costs.forward_passes == 0
    assert another.costs.peak_bytes == 0


def test_a_damaged_row_is_computed_again(experiment: Experiment, data: FederatedDataset) -> None:
    first = ask(teacher_client(experiment, data), range(100))
    (entry,) = TeacherCache().entries()
    text = bytearray((entry.folder / "rows.bin").read_bytes())
    text[len(text) // 2] ^= 1
    (entry.folder / "rows.bin").write_bytes(text)
    again = teacher_client(experiment, data)
    np.testing.assert_array_equal(ask(again, range(100)), first)
    assert again.costs.forward_passes == 1


def test_it_tells_how_far_it_is(experiment: Experiment, data: FederatedDataset) -> None:
    """A call for each batch of eight, and nothing to tell where all is known."""
    one = teacher_client(experiment, data)
    _, events = returned(one.answers({PLAINLY: np.arange(100)}))
    assert events == [TeacherProgress(done, 100) for done in (*range(8, 100, 8), 100)]
    assert returned(one.answers({PLAINLY: np.arange(100)}))[1] == []
    assert one.costs.seconds > 0


def test_several_questions_at_once(experiment: Experiment, data: FederatedDataset) -> None:
    questions = {PLAINLY: np.arange(20), TeacherQuery(0, "features"): np.arange(10), VIEWED: np.arange(5)}
    one = teacher_client(experiment, data)
    found, events = returned(one.answers(questions))
    assert [(found[q].shape[0], found[q].shape[1]) for q in questions] == [(20, 10), (10, 512), (5, 10)]
    assert one.costs.forward_passes == events[-1].done == 35
    assert len(one.costs.made_by) == len(TeacherCache().entries()) == 3


def test_views_are_stored_in_half_precision_and_the_error_is_told(
    experiment: Experiment, data: FederatedDataset
) -> None:
    rows = np.random.default_rng(1).choice(100 * VIEWS, 60, replace=False)
    one = teacher_client(experiment, data)
    found = ask(one, rows, VIEWED)
    views = apply_views(torch.from_numpy(data.train.images[rows // VIEWS]), torch.from_numpy(rows % VIEWS)).numpy()
    direct = teacher_of(experiment, data).ask(views)["logits"]
    np.testing.assert_array_equal(found, direct.astype(np.float16).astype(np.float32))
    error = np.abs(direct.astype(np.float64) - direct.astype(np.float16).astype(np.float64)).max()
    assert error > 0
    assert one.costs.storage_error == pytest.approx(error, rel=1e-6)
    plain = teacher_client(experiment, data)
    ask(plain, range(100))
    assert plain.costs.storage_error == 0


def test_the_plain_view_is_the_plain_image(experiment: Experiment, data: FederatedDataset) -> None:
    plain = ask(teacher_client(experiment, data), range(30))
    augmented = ask(teacher_client(experiment, data), np.arange(30) * VIEWS + PLAIN, VIEWED)
    np.testing.assert_array_equal(augmented, plain.astype(np.float16).astype(np.float32))


def test_answers_beyond_half_precision_are_refused(experiment: Experiment, data: FederatedDataset) -> None:
    with pytest.raises(SpecError, match=r"beyond the range of fp16, .* use mode: online"):
        ask(teacher_client(experiment, data, LoudWorker), range(8), VIEWED)
    assert np.isfinite(ask(teacher_client(experiment, data, LoudWorker), range(8))).all()


def test_a_teacher_that_fails_leaves_what_was_computed(experiment: Experiment, data: FederatedDataset) -> None:
    one = teacher_client(experiment, data, FailingWorker)
    with pytest.raises(
        RunError, match=r"^a teacher failed on node .*: ZeroDivisionError: the teacher divided"
    ) as error:
        ask(one, range(100))
    assert "test_teacher_queries.py" in str(error.value)
    assert one.costs.forward_passes == 96
    (entry,) = TeacherCache().entries()
    assert entry.known() == 96
    again = teacher_client(experiment, data)
    np.testing.assert_array_equal(ask(again, range(100)), teacher_of(experiment, data).ask(data.train.images)["logits"])
    assert again.costs.forward_passes == 4


def test_stopped_in_the_middle_it_lets_others_in(experiment: Experiment, data: FederatedDataset) -> None:
    asking = teacher_client(experiment, data).answers({PLAINLY: np.arange(100)})
    assert next(asking) == TeacherProgress(8, 100)
    asking.close()
    one = teacher_client(experiment, data)
    _, events = returned(one.answers({PLAINLY: np.arange(100)}))
    assert not any(event.waiting for event in events)
    assert one.costs.forward_passes == 92


def test_what_another_computes_is_waited_for(experiment: Experiment, data: FederatedDataset) -> None:
    first = teacher_client(experiment, data).answers({PLAINLY: np.arange(100)})
    next(first)
    second = teacher_client(experiment, data)
    asking = second.answers({PLAINLY: np.arange(100)})
    assert next(asking) == TeacherProgress(0, 0, waiting=True)
    returned(first)
    found, _ = returned(asking)
    assert second.costs.forward_passes == 0
    np.testing.assert_array_equal(found[PLAINLY], ask(teacher_client(experiment, data), range(100)))


def test_a_bank_that_cannot_be_written_is_a_spec_error(
    experiment: Experiment, data: FederatedDataset, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    one = TeacherClient(experiment, data, SerialBackend(experiment, data), TeacherCache(tmp_path / "file"))
    with pytest.raises(SpecError, match="set FEDRAY_CACHE to a folder that can"):
        ask(one, range(100))


def _ask_in_a_process(experiment: Experiment, begin: Any, said: Any) -> None:
    torch.set_num_threads(1)
    one = teacher_client(experiment, federated.load(experiment))
    begin.wait(120)
    said.put((ask(one, range(99, 19, -1)), one.costs.forward_passes))


def test_processes_that_ask_at_once_compute_each_row_once(experiment: Experiment, data: FederatedDataset) -> None:
    spawn = multiprocessing.get_context("spawn")
    begin, said = spawn.Barrier(2), spawn.Queue()
    other = spawn.Process(target=_ask_in_a_process, args=(experiment, begin, said))
    other.start()
    one = teacher_client(experiment, data)
    begin.wait(120)
    mine = ask(one, range(80))
    its, passes = said.get(timeout=120)
    other.join(60)
    assert other.exitcode == 0
    assert one.costs.forward_passes + passes == 100
    direct = teacher_of(experiment, data).ask(data.train.images)["logits"]
    np.testing.assert_array_equal(mine, direct[:80])
    np.testing.assert_array_equal(its, direct[:19:-1])
