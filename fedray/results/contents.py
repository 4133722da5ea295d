"""Contents that a run depends on: data sets, the partition, and the files that a spec names.

Contents are the same if their digests are equal. A stamp (names, sizes and modification times of files) is faster to
compare: an equal stamp means that nothing has changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedray.config.experiment import Experiment
from fedray.config.fields import FILE_FIELDS
from fedray.config.files import named_paths
from fedray.data import federated
from fedray.data.dataset import Dataset
from fedray.data.federated import FederatedDataset, read_datasets
from fedray.data.sections import Data
from fedray.data.stamps import file_stamp
from fedray.files import file_digest


@dataclass(frozen=True)
class Content:
    """The content that was read for one field of a spec."""

    digest: str
    """SHA-256."""
    stamp: str = ""
    """Hash of the names, sizes and modification times of the files; empty if these are unknown."""


def contents_of(experiment: Experiment, data: FederatedDataset) -> dict[str, Content]:
    """Return the contents of a run by field: `data.train`, `data.test`, `partition`, and those of named files."""
    return {
        "data.train": Content(data.train.content_digest, data.train.stamp),
        "data.test": Content(data.test.content_digest, data.test.stamp),
        "partition": Content(data.partition_digest),
        **{name: Content(file_digest(path) or "", file_stamp(path)) for name, path in named_paths(experiment).items()},
    }


class PresentContents:
    """The present contents on disk, for comparison with those of runs; each is read at most once."""

    def __init__(self, *, verify: bool = False) -> None:
        """`verify`: read all contents, even if their stamps are unchanged."""
        self._verify = verify
        self._stamps: dict[Data, dict[str, str]] = {}
        self._datasets: dict[tuple[Data, int | None], tuple[Dataset, Dataset]] = {}

    def differing(self, experiment: Experiment, before: Mapping[str, Content]) -> str | None:
        """Return the first field whose contents differ from those of an earlier run of the experiment, or None.

        Raises SpecError if data cannot be read.
        """
        paths = named_paths(experiment)
        for name in (name for name in before if name.split(".")[-1] in FILE_FIELDS):
            if name not in paths or not self._is_same_file(paths[name], before[name]):
                return name
        stamps = self._source_stamps(experiment)
        if all(name in before and self._is_unchanged(before[name], stamp) for name, stamp in stamps.items()):
            return None
        data = federated.load(experiment.data, experiment.partition, experiment.seed, self._read)
        now = contents_of(experiment, data)
        return next((name for name, content in before.items() if now[name].digest != content.digest), None)

    def _is_same_file(self, path: Path, before: Content) -> bool:
        return self._is_unchanged(before, file_stamp(path)) or file_digest(path) == before.digest

    def _is_unchanged(self, before: Content, stamp: str) -> bool:
        return not self._verify and stamp != "" and stamp == before.stamp

    def _source_stamps(self, experiment: Experiment) -> dict[str, str]:
        if experiment.data not in self._stamps:
            self._stamps[experiment.data] = federated.source_stamps(experiment.data)
        return self._stamps[experiment.data]

    def _read(self, spec: Data, seed: int) -> tuple[Dataset, Dataset]:
        """Read both sets. They are kept until other sets are read, since the next trial usually reads the same ones."""
        limited = spec.train_limit is not None or spec.test_limit is not None
        key = (spec, seed if limited else None)
        if key not in self._datasets:
            self._datasets = {key: read_datasets(spec, seed)}
        return self._datasets[key]
