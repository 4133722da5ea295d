"""What the trials of a study have in common, in the object store once per node rather than once per trial."""

from collections import OrderedDict
from typing import Any

import ray
from ray.exceptions import RayTaskError

from fedray.data.dataset import Dataset, digest
from fedray.data.sections import Data
from fedray.errors import SpecError

SHARED_TARGETS_BYTES = 2**30
"""Bytes of lessons that are kept for trials to come; those in use stay anyway."""


class SharedObjects:
    """An actor of its own, so that what it holds outlives every trial."""

    def __init__(self) -> None:
        self._sets: dict[tuple[Data, int | None], list[Any]] = {}
        self._notes: dict[str, str] = {}
        self._targets: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def sets(self, spec: Data, seed: int) -> list[Any]:
        """References to the training and the test set, read when somebody first asks."""
        from fedray.data.federated import read_datasets

        limited = spec.train_limit is not None or spec.test_limit is not None
        key = (spec, seed if limited else None)
        if key not in self._sets:
            sets = read_datasets(spec, seed)
            for data in sets:
                data.image_digest  # noqa: B018  kept with the data: nobody needs to compute it again
            self._sets[key] = [ray.put(data) for data in sets]
        return self._sets[key]

    def find(self, key: str) -> list[Any]:
        """A reference to the lessons that are known so, or none."""
        if key not in self._targets:
            return []
        self._targets.move_to_end(key)
        return [self._targets[key][0]]

    def keep(self, key: str, targets: dict[str, Any]) -> list[Any]:
        """Hold them for the next who has the same, in place of what was asked for longest ago."""
        self._targets[key] = (ray.put(targets), sum(values.nbytes for values in targets.values()))
        while sum(size for _, size in self._targets.values()) > SHARED_TARGETS_BYTES and len(self._targets) > 1:
            self._targets.popitem(last=False)
        return [self._targets[key][0]]

    def note(self, trial: str, text: str) -> None:
        """Say what a trial does before its next round."""
        self._notes[trial] = text

    def notes(self) -> dict[str, str]:
        """What trials have said since this was asked last."""
        said, self._notes = self._notes, {}
        return said

    def held(self) -> dict[str, int]:
        """How many data sets and lessons there are."""
        return {"sets": 2 * len(self._sets), "targets": len(self._targets)}


class ObjectStore:
    """The object store, as one process of a run sees it."""

    def put(self, value: Any) -> Any:
        """A reference to the value."""
        return ray.put(value)

    def put_targets(self, targets: dict[str, Any]) -> Any:
        """A reference to lessons that stay the same for the whole run."""
        return ray.put(targets)


class StudyObjectStore(ObjectStore):
    """The object store as a trial sees it: what another trial has put there is not put again."""

    def __init__(self, shared_objects: Any) -> None:
        self._shared_objects = shared_objects
        self._known: dict[int, tuple[Any, Any]] = {}  # by identity; each value is held, so that it keeps its own

    def read_datasets(self, spec: Data, seed: int) -> tuple[Dataset, Dataset]:
        """As `federated.read_sets`."""
        try:
            references = ray.get(self._shared_objects.sets.remote(spec, seed))
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, SpecError) else error) from None
        train, test = ray.get(references)
        self._known = {id(data): (data, ref) for data, ref in zip((train, test), references, strict=True)}
        return train, test

    def put(self, value: Any) -> Any:
        return self._known[id(value)][1] if id(value) in self._known else ray.put(value)

    def put_targets(self, targets: dict[str, Any]) -> Any:
        key = digest(*(targets[output_kind] for output_kind in sorted(targets)))
        found = ray.get(self._shared_objects.find.remote(key)) or ray.get(
            self._shared_objects.keep.remote(key, targets)
        )
        return found[0]
