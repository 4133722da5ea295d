"""What trials have in common is read, computed and stored once, and is what each would have read itself."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from fedray.backends.ray import shared_objects
from fedray.backends.ray.actors import RayBackend
from fedray.backends.ray.pool import ActorPool
from fedray.backends.ray.shared_objects import SharedObjects, StudyObjectStore
from fedray.config.experiment import Experiment
from fedray.data.federated import read_datasets
from fedray.data.sections import Data
from fedray.errors import SpecError
from fedray.server.driver import Driver

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Make = Callable[..., Experiment]
LIMITED = Data(train="digits", test="digits", train_limit=100, test_limit=20)


@pytest.fixture(scope="module")
def shared(ray_cluster: None) -> Iterator[Any]:  # noqa: ARG001
    """One for the module: what its tests put in does not overlap."""
    actor: Any = ray.remote(SharedObjects).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)


def held(shared: Any) -> dict[str, int]:
    counts: dict[str, int] = ray.get(shared.held.remote())
    return counts


def test_sets_are_read_once_for_all_that_want_the_same(shared: Any) -> None:
    before = held(shared)["sets"]
    one, other = StudyObjectStore(shared), StudyObjectStore(shared)  # of two trials
    ours, theirs = one.read_sets(LIMITED, 0), other.read_sets(LIMITED, 0)
    assert held(shared)["sets"] - before == 2
    for mine, its, here in zip(ours, theirs, read_datasets(LIMITED, 0), strict=True):
        assert one.put(mine) == other.put(its)  # the same object of the store
        np.testing.assert_array_equal(mine.images, here.images)
        np.testing.assert_array_equal(mine.labels, here.labels)
        np.testing.assert_array_equal(mine.rows, here.rows)
        assert mine.image_digest == here.image_digest
        assert not mine.images.flags.writeable  # shared memory, not a copy
    assert one.put(ours[0]) != one.put(ours[1])
    one.read_sets(LIMITED, 1)  # which takes other examples
    assert held(shared)["sets"] - before == 4
    for seed in (0, 1):
        one.read_sets(Data(train="digits", test="digits"), seed)  # which takes them all
    assert held(shared)["sets"] - before == 6


def test_what_is_not_shared_is_put_each_time(shared: Any) -> None:
    store = StudyObjectStore(shared)
    value = np.arange(10)
    first, second = store.put(value), store.put(value)
    assert first != second
    np.testing.assert_array_equal(ray.get(first), value)


def test_a_set_that_cannot_be_read_is_one_sentence_for_each_trial(shared: Any) -> None:
    for _ in range(2):
        with pytest.raises(SpecError) as caught:
            StudyObjectStore(shared).read_sets(Data(train="parquet:nowhere.parquet", test="digits"), 0)
        assert str(caught.value) == "data.train: no file matches 'parquet:nowhere.parquet'."


def test_lessons_are_known_by_what_they_say(shared: Any) -> None:
    before = held(shared)["targets"]
    targets = {"logits": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "features": np.ones((1, 2, 4), np.float32)}
    again = {name: targets[name].copy() for name in ("features", "logits")}
    first = StudyObjectStore(shared).put_targets(targets)
    assert StudyObjectStore(shared).put_targets(again) == first
    assert held(shared)["targets"] - before == 1
    other = StudyObjectStore(shared).put_targets({**targets, "logits": targets["logits"] + 1})
    assert other != first
    assert held(shared)["targets"] - before == 2
    np.testing.assert_array_equal(ray.get(first)["logits"], targets["logits"])
    np.testing.assert_array_equal(ray.get(other)["logits"], targets["logits"] + 1)


def test_lessons_asked_for_longest_ago_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_objects, "ROOM", 250)
    here = SharedObjects()
    for key in "ab":
        here.keep(key, {"logits": np.zeros(25, np.float32)})  # 100 bytes
    assert here.find("a") == here.find("a") != []
    here.keep("c", {"logits": np.zeros(25, np.float32)})
    assert [bool(here.find(key)) for key in "abc"] == [True, False, True]
    here.keep("d", {"logits": np.zeros(100, np.float32)})  # more than there is room: it is in use
    assert [bool(here.find(key)) for key in "abcd"] == [False, False, False, True]
    assert here.held() == {"sets": 0, "targets": 1}


def test_trials_find_the_sets_and_lessons_of_the_first(small: Make, shared: Any, tmp_path: Path) -> None:
    """And learn from them what they would have learnt alone."""
    before = held(shared)

    def finish(lam: float, backend: str, folder: Path, **how: Any) -> dict[str, bytes]:
        strategy = {"name": "fedlpfm", "lam": lam}
        resources = {"backend": backend, "clients_per_actor": 4}
        experiment = small(strategy=strategy, training={"rounds": 2}, resources=resources)
        list(Driver(experiment, folder, **how).run())
        return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}

    pool = ActorPool({"CPU": 1})
    try:
        for lam in (0.25, 0.75):
            pool.store = StudyObjectStore(shared)  # each trial has its own
            how = {"make_backend": partial(RayBackend, pool=pool), "read": pool.store.read_sets}
            assert finish(lam, "ray", tmp_path / f"ray {lam}", **how) == finish(lam, "serial", tmp_path / f"{lam}")
            assert {name: count - before[name] for name, count in held(shared).items()} == {"sets": 2, "targets": 4}
    finally:
        pool.close()
