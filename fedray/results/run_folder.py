"""The folder of one run.

spec.yaml  environment.json  rounds.csv  clients.csv  classes.csv  partition.csv  faults.csv
confusion-proxy.csv (on the test set, of the last evaluated round)  confusion-teacher.csv (on clients' examples)
costs.json  checkpoint/  model.safetensors (the final proxy; it marks a run as finished)
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from filelock import FileLock, Timeout

from fedray.config.experiment import EXECUTION_SECTIONS, Experiment
from fedray.config.files import named_files
from fedray.config.yaml_files import flatten, read_yaml, to_yaml
from fedray.errors import SpecError
from fedray.results.writer import PARTITION_COLUMNS, CsvTable, RunTables
from fedray.types import Row

if TYPE_CHECKING:
    from fedray.data.federated import FederatedDataset


class RunFolder:
    """The folder of one run, for the one process that writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint"
        self.model = path / "model.safetensors"

    @property
    def finished(self) -> bool:
        return self.model.exists()

    @property
    def resumable_from(self) -> int:
        """The round of the newest checkpoint, 0 without one."""
        whole = self.checkpoint.glob("round-*/state.json")
        names = [state.parent.name.removeprefix("round-") for state in whole]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def make(self) -> None:
        """Raises SpecError where the folder cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".writable").touch()
            (self.path / ".writable").unlink()
        except OSError as error:
            raise SpecError(f"the results folder '{self.path}' cannot be written ({error.strerror}).") from error

    def check(self, experiment: Experiment, *, resume: bool) -> None:
        """Raises SpecError where the folder cannot be written or holds something else to keep."""
        self.make()
        if self.finished or self.resumable_from:
            self._check_spec(experiment)
            if not (self.finished or resume):
                raise SpecError(f"'{self.path}' holds an unfinished run of this spec; add --resume to continue it.")

    def _check_spec(self, experiment: Experiment) -> None:
        spec = self.path / "spec.yaml"
        if not spec.exists():
            raise SpecError(f"'{self.path}' holds a run, but no spec.yaml to know it by; choose another --results.")
        difference = _first_difference(read_yaml(spec), experiment)
        if difference:
            raise SpecError(f"'{self.path}' holds results of another spec ({difference}); choose another --results.")
        now = named_files(experiment)
        for field, digest in self._files().items():
            if now.get(field) != digest:
                raise SpecError(
                    f"'{self.path}' holds a run with other contents of the file that {field} names; "
                    "bring them back, or choose another --results."
                )

    def _files(self) -> dict[str, str]:
        """What was in the files that the spec names when the run began."""
        try:
            files: dict[str, str] = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))["files"]
            return files
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @contextmanager
    def lock(self, lock_timeout: float = 0) -> Iterator[None]:
        """Keep every other run out of the folder, until this ends or its process dies.

        One that is there may take `lock_timeout` seconds to leave: a process that was killed takes its actors along.
        """
        class_counts = FileLock(self.path / ".lock")
        try:
            class_counts.acquire(timeout=lock_timeout)
        except Timeout:
            raise SpecError(
                f"'{self.path}' is being written by another run; wait for it, or choose another --results."
            ) from None
        try:
            yield
        finally:
            class_counts.release()

    def describe(self, experiment: Experiment, environment: Row) -> None:
        """Write the resolved spec and where it runs."""
        (self.path / "spec.yaml").write_text(to_yaml(experiment), encoding="utf-8")
        (self.path / "environment.json").write_text(json.dumps(environment, indent=2), encoding="utf-8")

    def write_partition(self, federated: "FederatedDataset") -> None:
        """Writes partition.csv: a row with the number of examples for each client and class that it holds."""
        with CsvTable(self.path / "partition.csv", PARTITION_COLUMNS) as table:
            for client, label in np.argwhere(federated.class_counts).tolist():
                name, examples = federated.train.classes[label], int(federated.class_counts[client, label])
                table.write([{"client": client, "class": label, "class_name": name, "examples": examples}])

    def tables(self, losses: Sequence[str], after_round: int) -> RunTables:
        """The tables of the rounds, without the rows beyond `after_round` that a crash left behind."""
        return RunTables(self.path, losses, after_round)


def _first_difference(before: Row, experiment: Experiment) -> str:
    """`training.lr is 0.1 there and 0.01 here`; empty where the same result would come out."""
    old, new = flatten(before), flatten(yaml.safe_load(to_yaml(experiment)))
    for field in [*new, *(old.keys() - new.keys())]:
        if field.split(".")[0] not in EXECUTION_SECTIONS and old.get(field) != new.get(field):
            return f"{field} is {old.get(field)} there and {new.get(field)} here"
    return ""
