"""Teacher outputs are computed once for all runs that share the cache, and equal the teacher's own, bit for bit."""

import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import federated

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.views import PLAIN, VIEWS, apply_views
from fedray.errors import RunError, SpecError
from fedray.server.teacher_client import TeacherClient
from fedray.teachers import loading
from fedray.teachers.cache import TeacherCache
from fedray.teachers.teacher import Teacher
from fedray.types import Progress, TeacherProgress, TeacherQuery
from fedray.workers.requests import QueryTeacher, Request, WorkerResult
from fedray.workers.worker import Worker

Make = Callable[..., Experiment]

PLAIN_LOGITS, VIEW_LOGITS = TeacherQuery(0, "logits"), TeacherQuery(0, "logits", augmented=True)
BATCH = 8


@pytest.fixture
def experiment(small: Make) -> Experiment:
    return small(data={"train_limit": 100}, teacher={"epochs": 1, "batch_size": BATCH})


@pytest.fixture
def data(experiment: Experiment) -> FederatedDataset:
    return federated.load(experiment)


class FailingWorker(Worker):
    """Fails on the batch with the last row."""

    def handle(self, request: Request[Any]) -> WorkerResult[Any]:
        if isinstance(request, QueryTeacher) and 99 in request.rows:
            raise ZeroDivisionError("the teacher divided by nothing")
        return super().handle(request)


class OverflowingWorker(Worker):
    """Return logits beyond the range of fp16."""

    def handle(self, request: Request[Any]) -> WorkerResult[Any]:
        output = super().handle(request).value
        return WorkerResult(replace(output, outputs=output.outputs * np.float32(1e6)))


class RecordingBackend(SerialBackend):
    """Records which rows its worker computed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.computed: list[int] = []

    def run(self, requests: Any, timeout_s: float | None = None) -> Any:
        for result in super().run(requests, timeout_s):
            self.computed += requests[result.index].rows.tolist()
            yield result


class StopError(Exception):
    """Raised by a callback, as an interrupt would be."""


def new_client(experiment: Experiment, data: FederatedDataset, worker: type[Worker] = Worker) -> TeacherClient:
    return TeacherClient(experiment, data, SerialBackend(experiment, data, worker), TeacherCache())


def teacher_of(experiment: Experiment, data: FederatedDataset) -> Teacher:
    return loading.load(experiment.teacher, data, experiment.seed, torch.device("cpu"))


def ignore(_: Progress) -> None:
    pass


def stop(_: Progress) -> None:
    raise StopError


def outputs(client: TeacherClient, rows: Iterable[int], query: TeacherQuery = PLAIN_LOGITS) -> Any:
    return client.outputs({query: np.array(rows)}, ignore)[query]


def test_outputs_equal_the_teachers_own(experiment: Experiment, data: FederatedDataset) -> None:
    """In batches of another size and order, with repeated rows: each image is computed alike."""
    teacher = teacher_of(experiment, data)
    direct = teacher.outputs(data.train.images)
    rows = np.random.default_rng(0).integers(0, 100, 150)
    logits = outputs(new_client(experiment, data), rows)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, direct["logits"][rows])
    features = TeacherQuery(0, "features")
    np.testing.assert_array_equal(outputs(new_client(experiment, data), rows, features), direct["features"][rows])
    test = TeacherQuery(0, "logits", side="test")
    np.testing.assert_array_equal(
        outputs(new_client(experiment, data), range(60), test), teacher.outputs(data.test.images)["logits"]
    )


def test_only_missing_rows_are_computed(experiment: Experiment, data: FederatedDataset) -> None:
    backend = RecordingBackend(experiment, data)
    first = TeacherClient(experiment, data, backend, TeacherCache())
    for rows, passes in ((range(10, 30), 20), (range(10, 30), 20), ([29, 30, 5, 5, 30], 22), (range(100), 100)):
        outputs(first, rows)
        assert first.costs.forward_passes == passes
    assert sorted(backend.computed) == list(range(100))
    second = new_client(experiment, data)
    outputs(second, range(100))
    assert second.costs.forward_passes == 0
    assert second.costs.peak_bytes == 0


def test_a_damaged_row_is_computed_again(experiment: Experiment, data: FederatedDataset) -> None:
    first = outputs(new_client(experiment, data), range(100))
    (entry,) = TeacherCache().entries()
    content = bytearray((entry.folder / "rows.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (entry.folder / "rows.bin").write_bytes(content)
    second = new_client(experiment, data)
    np.testing.assert_array_equal(outputs(second, range(100)), first)
    assert second.costs.forward_passes == 1


def test_progress_is_reported_per_batch(experiment: Experiment, data: FederatedDataset) -> None:
    """A batch has eight images; cached outputs have no progress."""
    client, events = new_client(experiment, data), list[Progress]()
    client.outputs({PLAIN_LOGITS: np.arange(100)}, events.append)
    assert events == [TeacherProgress(done, 100) for done in (*range(8, 100, 8), 100)]
    events.clear()
    client.outputs({PLAIN_LOGITS: np.arange(100)}, events.append)
    assert events == []
    assert client.costs.seconds > 0


def test_several_queries_in_one_call(experiment: Experiment, data: FederatedDataset) -> None:
    queries = {PLAIN_LOGITS: np.arange(20), TeacherQuery(0, "features"): np.arange(10), VIEW_LOGITS: np.arange(5)}
    client, events = new_client(experiment, data), list[Any]()
    by_query = client.outputs(queries, events.append)
    assert [by_query[query].shape for query in queries] == [(20, 10), (10, 512), (5, 10)]
    assert client.costs.forward_passes == events[-1].done == 35
    assert len(client.costs.produced_by) == len(TeacherCache().entries()) == 3


def test_views_are_stored_as_fp16_and_the_error_is_recorded(experiment: Experiment, data: FederatedDataset) -> None:
    rows = np.random.default_rng(1).choice(100 * VIEWS, 60, replace=False)
    client = new_client(experiment, data)
    logits = outputs(client, rows, VIEW_LOGITS)
    views = apply_views(torch.from_numpy(data.train.images[rows // VIEWS]), torch.from_numpy(rows % VIEWS)).numpy()
    direct = teacher_of(experiment, data).outputs(views)["logits"]
    np.testing.assert_array_equal(logits, direct.astype(np.float16).astype(np.float32))
    error = np.abs(direct.astype(np.float64) - direct.astype(np.float16).astype(np.float64)).max()
    assert error > 0
    assert client.costs.storage_error == pytest.approx(error, rel=1e-6)
    plain = new_client(experiment, data)
    outputs(plain, range(100))
    assert plain.costs.storage_error == 0


def test_the_plain_view_is_the_plain_image(experiment: Experiment, data: FederatedDataset) -> None:
    plain = outputs(new_client(experiment, data), range(30))
    views = outputs(new_client(experiment, data), np.arange(30) * VIEWS + PLAIN, VIEW_LOGITS)
    np.testing.assert_array_equal(views, plain.astype(np.float16).astype(np.float32))


def test_outputs_that_overflow_fp16_are_refused(experiment: Experiment, data: FederatedDataset) -> None:
    with pytest.raises(SpecError, match=r"its outputs overflow fp16, .* use mode: online"):
        outputs(new_client(experiment, data, OverflowingWorker), range(8), VIEW_LOGITS)
    assert np.isfinite(outputs(new_client(experiment, data, OverflowingWorker), range(8))).all()


def test_outputs_before_a_failure_are_kept(experiment: Experiment, data: FederatedDataset) -> None:
    failing = new_client(experiment, data, FailingWorker)
    with pytest.raises(
        RunError, match=r"^a teacher failed on node .*: ZeroDivisionError: the teacher divided"
    ) as error:
        outputs(failing, range(100))
    assert "test_teacher_client.py" in str(error.value)
    assert failing.costs.forward_passes == 96
    (entry,) = TeacherCache().entries()
    assert entry.count_valid() == 96
    second = new_client(experiment, data)
    logits = outputs(second, range(100))
    np.testing.assert_array_equal(logits, teacher_of(experiment, data).outputs(data.train.images)["logits"])
    assert second.costs.forward_passes == 4


def test_an_interrupt_releases_the_lock(experiment: Experiment, data: FederatedDataset) -> None:
    with pytest.raises(StopError):
        new_client(experiment, data).outputs({PLAIN_LOGITS: np.arange(100)}, stop)
    second, events = new_client(experiment, data), list[Any]()
    second.outputs({PLAIN_LOGITS: np.arange(100)}, events.append)
    assert not any(event.waiting for event in events)
    assert second.costs.forward_passes == 92


def test_outputs_that_another_run_computes_are_waited_for(experiment: Experiment, data: FederatedDataset) -> None:
    """The second client starts while the first holds the lock, and gets no further than to wait."""
    second, waits = new_client(experiment, data), list[Progress]()

    def wait(event: Progress) -> None:
        waits.append(event)
        raise StopError

    def start_second(_: Progress) -> None:
        with pytest.raises(StopError):
            second.outputs({PLAIN_LOGITS: np.arange(100)}, wait)

    first = new_client(experiment, data).outputs({PLAIN_LOGITS: np.arange(8)}, start_second)[PLAIN_LOGITS]
    assert waits == [TeacherProgress(0, 0, waiting=True)]
    np.testing.assert_array_equal(outputs(second, range(8)), first)
    assert second.costs.forward_passes == 0


def test_a_cache_that_cannot_be_written_is_a_spec_error(
    experiment: Experiment, data: FederatedDataset, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    client = TeacherClient(experiment, data, SerialBackend(experiment, data), TeacherCache(tmp_path / "file"))
    with pytest.raises(SpecError, match="set FEDRAY_CACHE to a writable folder"):
        outputs(client, range(100))


def _query_in_a_process(experiment: Experiment, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    client = new_client(experiment, federated.load(experiment))
    barrier.wait(120)
    results.put((outputs(client, range(99, 19, -1)), client.costs.forward_passes))


def test_two_processes_compute_each_row_once(experiment: Experiment, data: FederatedDataset) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    process = spawn.Process(target=_query_in_a_process, args=(experiment, barrier, results))
    process.start()
    client = new_client(experiment, data)
    barrier.wait(120)
    here = outputs(client, range(80))
    there, passes = results.get(timeout=120)
    process.join(60)
    assert process.exitcode == 0
    assert client.costs.forward_passes + passes == 100
    direct = teacher_of(experiment, data).outputs(data.train.images)["logits"]
    np.testing.assert_array_equal(here, direct[:80])
    np.testing.assert_array_equal(there, direct[:19:-1])
