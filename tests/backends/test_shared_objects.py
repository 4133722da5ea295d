"""Data sets and targets that trials share are stored once, and equal those that a trial would have loaded itself."""

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
    """One actor for the module: its tests store different objects."""
    actor: Any = ray.remote(SharedObjects).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)


def counts(shared: Any) -> dict[str, int]:
    counts: dict[str, int] = ray.get(shared.counts.remote())
    return counts


def test_equal_data_sets_are_read_once(shared: Any) -> None:
    before = counts(shared)["datasets"]
    one, other = StudyObjectStore(shared), StudyObjectStore(shared)  # of two trials
    first, second = one.read_datasets(LIMITED, 0), other.read_datasets(LIMITED, 0)
    assert counts(shared)["datasets"] - before == 2
    for shared_once, shared_twice, local in zip(first, second, read_datasets(LIMITED, 0), strict=True):
        assert one.put(shared_once) == other.put(shared_twice)  # the same object of the store
        np.testing.assert_array_equal(shared_once.images, local.images)
        np.testing.assert_array_equal(shared_once.labels, local.labels)
        np.testing.assert_array_equal(shared_once.rows, local.rows)
        assert shared_once.image_digest == local.image_digest
        assert not shared_once.images.flags.writeable  # shared memory, not a copy
    assert one.put(first[0]) != one.put(first[1])
    one.read_datasets(LIMITED, 1)  # another seed has other examples
    assert counts(shared)["datasets"] - before == 4
    for seed in (0, 1):
        one.read_datasets(
            Data(train="digits", test="digits"), seed
        )  # without a limit, all seeds have the same examples
    assert counts(shared)["datasets"] - before == 6


def test_other_values_are_stored_each_time(shared: Any) -> None:
    store = StudyObjectStore(shared)
    value = np.arange(10)
    first, second = store.put(value), store.put(value)
    assert first != second
    np.testing.assert_array_equal(first.get(), value)


def test_an_unreadable_data_set_is_a_spec_error_of_each_trial(shared: Any) -> None:
    for _ in range(2):
        with pytest.raises(SpecError) as raised:
            StudyObjectStore(shared).read_datasets(Data(train="parquet:nowhere.parquet", test="digits"), 0)
        assert str(raised.value) == "data.train: no file matches 'parquet:nowhere.parquet'."


def test_equal_targets_are_stored_once(shared: Any) -> None:
    before = counts(shared)["targets"]
    targets = {"logits": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "features": np.ones((1, 2, 4), np.float32)}
    again = {name: targets[name].copy() for name in ("features", "logits")}
    first = StudyObjectStore(shared).put_targets(targets)
    assert StudyObjectStore(shared).put_targets(again) == first
    assert counts(shared)["targets"] - before == 1
    other = StudyObjectStore(shared).put_targets({**targets, "logits": targets["logits"] + 1})
    assert other != first
    assert counts(shared)["targets"] - before == 2
    np.testing.assert_array_equal(first.get()["logits"], targets["logits"])
    np.testing.assert_array_equal(other.get()["logits"], targets["logits"] + 1)


def test_least_recently_used_targets_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_objects, "SHARED_TARGETS_BYTES", 250)
    objects = SharedObjects()
    for key in "ab":
        objects.store_targets(key, {"logits": np.zeros(25, np.float32)})  # 100 bytes
    assert objects.find_targets("a") == objects.find_targets("a") is not None
    objects.store_targets("c", {"logits": np.zeros(25, np.float32)})
    assert [bool(objects.find_targets(key)) for key in "abc"] == [True, False, True]
    objects.store_targets("d", {"logits": np.zeros(100, np.float32)})  # beyond the limit, but in use
    assert [bool(objects.find_targets(key)) for key in "abcd"] == [False, False, False, True]
    assert objects.counts() == {"datasets": 0, "targets": 1}


def test_later_trials_use_the_objects_of_the_first(small: Make, shared: Any, tmp_path: Path) -> None:
    """Their weights equal those of a serial run."""
    before = counts(shared)

    def finish(lam: float, backend: str, folder: Path, **options: Any) -> dict[str, bytes]:
        strategy = {"name": "fedlpfm", "lam": lam}
        resources = {"backend": backend, "clients_per_actor": 4}
        experiment = small(strategy=strategy, training={"rounds": 2}, resources=resources)
        list(Driver(experiment, folder, **options).run())
        return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}

    pool = ActorPool({"CPU": 1})
    try:
        for lam in (0.25, 0.75):
            pool.store = StudyObjectStore(shared)  # each trial has its own
            options = {"make_backend": partial(RayBackend, pool=pool), "read": pool.store.read_datasets}
            assert finish(lam, "ray", tmp_path / f"ray {lam}", **options) == finish(lam, "serial", tmp_path / f"{lam}")
            assert {name: count - before[name] for name, count in counts(shared).items()} == {
                "datasets": 2,
                "targets": 4,
            }
    finally:
        pool.close()
