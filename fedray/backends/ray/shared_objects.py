"""Data sets and targets that the trials of a study share: each is in the object store once per node."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import ray
from ray.actor import ActorProxy
from ray.exceptions import RayTaskError

from fedray.backends.ray.references import RayShared
from fedray.data.dataset import Dataset, digest
from fedray.data.sections import Data
from fedray.errors import SpecError
from fedray.types import TargetArrays

T = TypeVar("T")

SHARED_TARGETS_BYTES = 2**30
"""Bytes of targets that stay stored for later trials. Targets in use stay in the object store in any case."""


class SharedObjects:
    """An actor that owns shared objects, so that they outlive the trial that stored them."""

    def __init__(self) -> None:
        self._datasets: dict[tuple[Data, int | None], list[RayShared[Dataset]]] = {}
        self._notes: dict[str, str] = {}
        self._warnings: dict[str, None] = {}
        self._targets: OrderedDict[str, tuple[RayShared[TargetArrays], int]] = OrderedDict()

    @ray.method
    def datasets(self, spec: Data, seed: int) -> list[RayShared[Dataset]]:
        """Return the training and the test set, which are read at the first call."""
        from fedray.data.federated import left_out, read_datasets

        limited = spec.train_limit is not None or spec.test_limit is not None
        key = (spec, seed if limited else None)
        if key not in self._datasets:
            try:
                datasets = read_datasets(spec, seed)
            except SpecError as error:
                self._warnings |= dict.fromkeys(error.warnings)
                raise
            self._warnings |= dict.fromkeys(left_out(*datasets))
            for data in datasets:
                data.content_digest  # noqa: B018  cached in the data set, so that no trial computes it again
            self._datasets[key] = [RayShared(ray.put(data)) for data in datasets]
        return self._datasets[key]

    @ray.method
    def warn(self, sentences: Sequence[str]) -> None:
        """Add sentences that the sweep prints at its end, each once."""
        self._warnings |= dict.fromkeys(sentences)

    @ray.method
    def warnings(self) -> list[str]:
        """Return the sentences on the data and the specs of the study."""
        return list(self._warnings)

    @ray.method
    def find_targets(self, key: str) -> RayShared[TargetArrays] | None:
        """Return the targets with this digest, or None."""
        if key not in self._targets:
            return None
        self._targets.move_to_end(key)
        return self._targets[key][0]

    @ray.method
    def store_targets(self, key: str, targets: TargetArrays) -> RayShared[TargetArrays]:
        """Store targets, and drop the least recently used ones beyond SHARED_TARGETS_BYTES."""
        self._targets[key] = (RayShared(ray.put(targets)), sum(array.nbytes for array in targets.values()))
        while sum(size for _, size in self._targets.values()) > SHARED_TARGETS_BYTES and len(self._targets) > 1:
            self._targets.popitem(last=False)
        return self._targets[key][0]

    @ray.method
    def note(self, trial: str, text: str) -> None:
        """Set the progress message of a trial that waits for its next round."""
        self._notes[trial] = text

    @ray.method
    def notes(self) -> dict[str, str]:
        """Return the progress messages since the last call, by trial."""
        notes, self._notes = self._notes, {}
        return notes

    @ray.method
    def counts(self) -> dict[str, int]:
        """Return the number of data sets and of targets."""
        return {"datasets": 2 * len(self._datasets), "targets": len(self._targets)}


SharedObjectsActor: TypeAlias = ActorProxy[SharedObjects]


class ObjectStore:
    """Ray's object store as a run uses it."""

    def put(self, value: T) -> RayShared[T]:
        """Store a value."""
        return RayShared(ray.put(value))

    def put_targets(self, targets: TargetArrays) -> RayShared[TargetArrays]:
        """Store targets that stay the same for the whole run."""
        return self.put(targets)


class StudyObjectStore(ObjectStore):
    """The object store as a trial uses it: an object that another trial has stored is not stored again."""

    def __init__(self, shared_objects: SharedObjectsActor) -> None:
        self._shared_objects = shared_objects
        self._datasets: dict[int, tuple[Dataset, RayShared[Any]]] = {}  # by id(); the value keeps the id taken

    def read_datasets(self, spec: Data, seed: int) -> tuple[Dataset, Dataset]:
        """Return the training and test set as `federated.read_datasets` does, from the object store."""
        try:
            shared = ray.get(self._shared_objects.datasets.remote(spec, seed))
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, SpecError) else error) from None
        train, test = (dataset.get() for dataset in shared)
        self._datasets = {id(data): (data, ref) for data, ref in zip((train, test), shared, strict=True)}
        return train, test

    def put(self, value: T) -> RayShared[T]:
        return self._datasets[id(value)][1] if id(value) in self._datasets else super().put(value)

    def put_targets(self, targets: TargetArrays) -> RayShared[TargetArrays]:
        key = digest(*(targets[output_kind] for output_kind in sorted(targets)))
        found = ray.get(self._shared_objects.find_targets.remote(key))
        return found or ray.get(self._shared_objects.store_targets.remote(key, targets))
